"""What the claims measures: a model with something taken from it, and what it finds then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is taken from the model, and whether it is trained afterwards."""

    attention: int = 0
    """Attentions dropped by importance."""
    mlp: int = 0
    """MLPs dropped by importance."""
    block: int = 0
    """Blocks dropped by importance."""
    last_blocks: int = 0
    """Blocks dropped from the end."""
    keep: float = 1.0
    """Share of the neurons in the MLPs left that stays."""
    width: str = ""
    """What chooses them: `reconstruct`, which also refits, or `slim`; empty: all stay as is."""
    tuned: bool = False
    """Whether the short fine-tuning follows."""

    @classmethod
    def without(cls, kind: str, count: int, *, tuned: bool = False) -> Variant:
        """Return the variant that lacks some sublayers of one kind, such as `mlp`."""
        counts: dict[str, Any] = {kind: count}
        return cls(**counts, tuned=tuned)

    @property
    def dropped(self) -> dict[str, int]:
        """Return how many of what goes."""
        kinds = ("attention", "mlp", "block", "last_blocks")
        return {kind: getattr(self, kind) for kind in kinds if getattr(self, kind)}

    @property
    def name(self) -> str:
        """Return what was taken from it, in words."""
        kinds = {"attention": "attention", "mlp": "MLP", "block": "block"}
        parts = []
        for kind, count in self.dropped.items():
            if kind == "last_blocks":
                parts.append(f"last {count} block{'s' * (count > 1)} dropped")
            else:
                parts.append(f"{count} {kinds[kind]}{'s' * (count > 1)} dropped")
        if self.width and self.keep < 1:
            parts.append(f"{1 - self.keep:.0%} of the width gone ({self.width})")
        elif self.width:
            parts.append("the others refitted")
        return ", ".join(parts) or "full"

    @property
    def title(self) -> str:
        """Return the name, and whether it was trained."""
        return self.name + (", fine-tuned" if self.tuned else "")


FULL = Variant()


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Retrieval quality of a variant on one data set."""

    variant: Variant
    """What was measured."""
    data: str
    """Name of the data set."""
    ndcg: float
    """nDCG@10, between 0 and 1."""
    recall: float
    """R@100."""
    parameters: int
    """Of the layers, without the token embeddings."""
    megabytes: float
    """Of the weights as they lie in memory."""
    by_query: dict[str, float]
    """nDCG@10 of each query."""
