"""Texts as tokenizers take them."""

from __future__ import annotations

ROLE_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""What a text is to a model -> the names under which models keep a prompt for it, first ones first;
those that Sentence Transformers looks up."""


def clean_text(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates by U+FFFD, which no tokenizer refuses."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
