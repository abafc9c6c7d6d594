"""How effir-mini is made: its texts, its tokenizer and first weights."""
