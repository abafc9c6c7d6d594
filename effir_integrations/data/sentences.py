"""Cut texts into sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_END = re.compile(r"(?<=[.!?])\s+(?=[\"\'(\[]?[^\W_a-z])|(?<=[。！？])\s*|\n\s*\n")
"""After a full stop, where what follows does not begin with a small letter; and at a blank line."""
_FEWEST_WORDS = 4


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; one of fewer than four words stays with the one before.

    Words are what white space parts: where it parts none, a sentence counts by its characters.
    """
    pieces: list[str] = []
    for piece in filter(None, (part.strip() for part in _END.split(text.strip()))):
        if pieces and _is_short(piece):
            pieces[-1] += f" {piece}"
        else:
            pieces.append(piece)
    return pieces


def _is_short(piece: str) -> bool:
    return len(piece.split()) < _FEWEST_WORDS and (piece.isascii() or len(piece) < _FEWEST_WORDS)


def sentence_pairs(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each sentence of each text with the one that follows it there."""
    for text in texts:
        found = sentences(text)
        yield from zip(found, found[1:], strict=False)
