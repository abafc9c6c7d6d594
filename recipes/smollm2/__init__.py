"""How a retriever is made of SmolLM2: its weights, its texts, its head, its learning curve."""
