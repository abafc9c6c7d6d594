"""Texts as tokenizers take them."""

from __future__ import annotations


def clean_text(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates by U+FFFD, which no tokenizer refuses."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
