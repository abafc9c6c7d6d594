"""How far a figure of some queries may be from that of all: bootstrap over queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Means = npt.NDArray[np.float64]
_SAMPLES = 2000


def interval(
    statistic: Callable[..., Means], *figures: Mapping[str, float], seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of what is made of mean figures over queries.

    Queries are drawn with replacement, the same ones for all models, so that what makes a query
    hard for every model cancels in a difference or a ratio.

    Args:
        statistic: From the means of each model, (samples,) each, to (samples,), such as their
            difference.
        figures: Query id -> figure, of each model.
        seed: Of the draw.

    Raises:
        ValueError: There are no queries, or models were measured on different ones.
    """
    queries = sorted(figures[0])
    if not queries:
        raise ValueError("there are no queries to draw from; give figures of at least one")
    if any(set(other) != set(queries) for other in figures):
        raise ValueError("the figures are of different queries; measure all models on the same")
    columns = [np.array([each[query] for query in queries]) for each in figures]
    draws = np.random.default_rng(seed).integers(0, len(queries), (_SAMPLES, len(queries)))
    made = statistic(*(column[draws].mean(axis=1) for column in columns))
    low, high = np.percentile(made, [2.5, 97.5])
    return float(low), float(high)
