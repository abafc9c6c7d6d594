"""What the writer of a format hands back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Written:
    """A model in a new format, beside which prompts, provenance and card go."""

    file: str
    """The main file, relative to its folder."""
    cosine: float | None
    """The least one to a vector of the folder that was converted; None where no runtime ran it."""
    least: float
    """What it had to be."""
    unchecked: str = ""
    """What to do for the check where it was not made."""
    inside: str = "Pooling and normalisation are in the graph."
    """What the file does itself, for the card."""
    usage: str = ""
    """How to use it, for the card, in Markdown."""
    tags: tuple[str, ...] = ()
    """Of the card."""
