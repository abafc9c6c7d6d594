"""How far two models agree on what they find, without judgements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .intervals import interval

TOP = 10
"""Documents of a result that a person looks at."""
DEPTH = 100
"""Documents that rank-biased overlap looks at."""
_PATIENCE = 0.9
"""Of rank-biased overlap: with it the first ten documents have 86 % of the weight."""

Places = npt.NDArray[np.int64]
"""(queries, depth): the places of the documents found, best first."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How much of the full model's result another way of searching finds."""

    overlap: float
    """Share of the full model's ten best documents among the ten best; the mean over queries."""
    overlap_interval: tuple[float, float]
    """95 %, by drawing queries with replacement."""
    overlap_worst: float
    """Mean of the tenth of the queries in which it is lowest."""
    rank_biased: float
    """Rank-biased overlap (Webber, Moffat and Zobel, 2010), p = 0.9, of the first hundred."""
    rank_biased_interval: tuple[float, float]
    known_item: float | None
    """Mean reciprocal rank of the known document among ten, where queries are known items."""
    known_item_interval: tuple[float, float] | None
    overlap_by_query: tuple[float, ...] = field(repr=False)
    """Of each query, in their order."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, but for those of each query."""
        kept = {name: x for name, x in vars(self).items() if name != "overlap_by_query"}
        return {name: list(x) if isinstance(x, tuple) else x for name, x in kept.items()}


def agreement(found: Places, full: Places, answers: Sequence[int] | None) -> Agreement:
    """Compare what is found with what the full model finds.

    Args:
        found: Of the other way of searching.
        full: Of the full model; as many documents.
        answers: Of each query, the place of the document that it was made of; None where queries
            are somebody's own.
    """
    shared = overlaps(found[:, :TOP], full[:, :TOP])
    biased = rank_biased_overlaps(found, full)
    known = None if answers is None else reciprocal_ranks(found[:, :TOP], answers)
    worst = np.sort(shared)[: max(1, len(shared) // 10)]
    return Agreement(
        overlap=float(shared.mean()),
        overlap_interval=_interval(shared),
        overlap_worst=float(worst.mean()),
        rank_biased=float(biased.mean()),
        rank_biased_interval=_interval(biased),
        known_item=None if known is None else float(known.mean()),
        known_item_interval=None if known is None else _interval(known),
        overlap_by_query=tuple(shared.tolist()),
    )


def overlaps(found: Places, full: Places) -> npt.NDArray[np.float64]:
    """Return the share of `full` that is in `found`, whatever the order, (queries,)."""
    return np.array([np.isin(a, b).mean() for a, b in zip(full, found, strict=True)])


def rank_biased_overlaps(found: Places, full: Places) -> npt.NDArray[np.float64]:
    """Return sum_d p^(d-1) A_d over the depths there are, divided by its largest value.

    A_d is the share that the first d documents of both have in common (equation 4 of the paper).
    """
    depths = np.arange(1, full.shape[1] + 1)
    weights = _PATIENCE ** (depths - 1)
    common = np.array(
        [
            [np.isin(a[:d], b[:d]).sum() / d for d in depths]
            for a, b in zip(full, found, strict=True)
        ]
    )
    return np.asarray(common @ weights / weights.sum())


def reciprocal_ranks(found: Places, answers: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return 1 / rank of the answer of each query, 0 where it is not found, (queries,)."""
    hits = found == np.asarray(answers)[:, None]
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return interval(lambda mean: mean, {str(place): float(x) for place, x in enumerate(values)})
