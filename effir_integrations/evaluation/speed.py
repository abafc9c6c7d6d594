"""Encode as retrieval does, and measure how fast a model does it."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from effir_integrations.encoder.search_vectors import Role, search_vectors

from ..progress import progress_bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from effir_integrations.evaluation.retrieval import Vectors

_LATENCY_WARM_UP = 5


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a model encodes, tokenisation and prompts included."""

    documents_per_second: float
    """Documents, in batches."""
    queries_per_second: float
    """Queries, in batches."""
    query_latency: float
    """Median seconds for one query, one at a time."""


def encode_timed(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    kind: Role,
    batch_size: int = 32,
    max_length: int | None = None,
    truncate_dim: int | None = None,
    show_progress: bool = False,
) -> tuple[Vectors, float]:
    """Encode texts, one batch before the clock starts, and time it.

    Args: as in `search_vectors`.

    Returns:
        Vectors, (texts, dimension), float32, and texts per second.

    Raises:
        ValueError: If there are no texts, or the model's similarity is a distance.
    """
    if not texts:
        raise ValueError(f"no {kind} texts; timing needs at least one.")
    # The first forward pass also pays for allocators, kernels and threads.
    encode = partial(
        search_vectors,
        model,
        kind=kind,
        batch_size=batch_size,
        max_length=max_length,
        truncate_dim=truncate_dim,
    )
    encode(texts[:batch_size])
    start = time.perf_counter()
    vectors = encode(texts, show_progress=show_progress)
    return vectors, len(texts) / (time.perf_counter() - start)


def query_latency(
    model: SentenceTransformer,
    queries: Sequence[str],
    repeats: int = 50,
    *,
    max_length: int | None = None,
) -> float:
    """Encode one query at a time and return the median time, in seconds.

    Args:
        model: The model; its query prompt applies.
        queries: Taken in turn, from the start again when they run out.
        repeats: Calls that are timed, after a few that are not.
        max_length: As in `search_vectors`.

    Raises:
        ValueError: If there are no queries, or `repeats` is below 1.
    """
    if not queries or repeats < 1:
        raise ValueError(f"{len(queries)} queries, repeats={repeats}; both must be at least 1.")
    times = []
    for query in itertools.islice(itertools.cycle(queries), _LATENCY_WARM_UP + repeats):
        start = time.perf_counter()
        search_vectors(model, [query], kind="query", batch_size=1, max_length=max_length)
        times.append(time.perf_counter() - start)
    return statistics.median(times[_LATENCY_WARM_UP:])


def interleaved_speed(
    models: Sequence[SentenceTransformer],
    documents: Sequence[str],
    queries: Sequence[str],
    *,
    rounds: int = 3,
    batch_size: int = 32,
    max_length: int | None = None,
    repeats: int = 50,
    show_progress: bool = False,
) -> list[Speed]:
    """Time models in turns on the same texts and take the median of each figure.

    On a machine whose speed drifts, models timed one after the other are not comparable. Here each
    round times every model, every second round in reverse order.

    Args:
        models: The models, all in memory.
        documents: The same for every model and round.
        queries: The same for every model and round.
        rounds: Times that each model is measured; odd numbers give a true median.
        batch_size: Texts in each batch of a stock model; an `Encoder` cuts by tokens.
        max_length: As in `search_vectors`.
        repeats: Single queries a round.
        show_progress: Draw a progress bar over models and rounds.

    Returns:
        One `Speed` a model, in the order given.

    Raises:
        ValueError: If `rounds` is below 1, or there are no texts.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}; must be at least 1.")
    measured: list[list[Speed]] = [[] for _ in models]
    turns = [turn for r in range(rounds) for turn in list(range(len(models)))[:: (-1) ** r]]
    for turn in progress_bar(turns, desc="Timing", unit="turn", shown=show_progress):
        timed = partial(encode_timed, models[turn], batch_size=batch_size, max_length=max_length)
        measured[turn].append(
            Speed(
                documents_per_second=timed(documents, kind="document")[1],
                queries_per_second=timed(queries, kind="query")[1],
                query_latency=query_latency(models[turn], queries, repeats, max_length=max_length),
            )
        )
    return [
        Speed(
            documents_per_second=statistics.median(s.documents_per_second for s in speeds),
            queries_per_second=statistics.median(s.queries_per_second for s in speeds),
            query_latency=statistics.median(s.query_latency for s in speeds),
        )
        for speeds in measured
    ]
