"""The few batch shapes that a compiled model runs."""

from __future__ import annotations

from dataclasses import dataclass

LENGTHS = (32, 64, 128, 192, 256, 384, 512)
"""Tokens that batches are padded to; longer ones to a multiple of the last."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """One shape for each length, so that nothing is compiled twice."""

    batch_tokens: int
    """Padded tokens of every batch, at most."""

    def tokens(self, longest: int) -> int:
        """Return the padded length of a batch whose longest text has so many tokens."""
        step = LENGTHS[-1]
        return next((x for x in LENGTHS if x >= longest), -(-longest // step) * step)

    def rows(self, tokens: int) -> int:
        """Return the texts of every batch of a padded length."""
        return max(1, self.batch_tokens // tokens)

    def lengths(self, limit: int) -> list[int]:
        """Return every padded length that texts of at most `limit` tokens can have."""
        return sorted({self.tokens(longest) for longest in range(1, limit + 1)})
