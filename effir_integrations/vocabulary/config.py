"""How much of a vocabulary stays."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import check_fields
from .scripts import scripts_of


@dataclass(frozen=True, kw_only=True)
class TrimConfig:
    """Settings of `trim`. Bytes or single characters, special and added tokens always stay."""

    size: int | None = None
    """The most tokens that stay, such as 64000: those that the texts need most often, then those of
    the languages. Default: all of them."""
    min_count: int | None = None
    """A token stays if the texts need it at least so often. Default: once; with `size` no floor,
    where one that is given must be met."""
    languages: tuple[str, ...] = ()
    """Tokens in the script of these languages stay, and those without letters: codes such as en,
    de, ru, zh, or scripts such as latin, cyrillic, cjk."""
    text_count: int | None = None
    """How many texts to draw. Default: all."""
    seed: int = 0
    """Seed of that draw, and of the tenth of the texts that is held out for the report."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("size", "min_count", "text_count"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"{name}={count} must be at least 1")
        scripts_of(self.languages)
