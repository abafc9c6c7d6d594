"""Measure several models on the same data and lay the figures side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effir_integrations.data.beir import RetrievalData, check_drop_same_id, retrieval_data
from effir_integrations.evaluation.encoded import Encoded, Settings, encode_data
from effir_integrations.evaluation.evaluate import Evaluation, check_sizes, score
from effir_integrations.evaluation.models import check_model, load_model
from effir_integrations.evaluation.speed import Speed, interleaved_speed

from ..extras import import_extra
from ..progress import is_shown, progress_bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Comparison(list[Evaluation]):
    """Evaluations on the same data, which a notebook shows side by side; else a plain list."""

    def _repr_html_(self) -> str:
        from effir_integrations.evaluation.tables import evaluations_html

        return evaluations_html(self)


def compare(
    models: Sequence[SentenceTransformer | str | Path],
    data: RetrievalData | str | Path,
    *,
    documents: SentenceTransformer | str | Path | None = None,
    split: str = "test",
    drop_same_id: str | None = None,
    max_length: int | None = None,
    truncate_dim: int | None = None,
    batch_size: int = 32,
    dtype: str = "auto",
    device: str | None = None,
    speed_rounds: int = 3,
    speed_documents: int = 256,
    speed_queries: int = 64,
    show_progress: bool | None = None,
) -> Comparison:
    """Evaluate models on the same data, the first one being what the others are measured against.

    The data are read once and the models evaluated one after the other, one at a time in memory.
    Then speed is measured again, because a shared machine is not equally fast for long: in each
    round every model in turn encodes the same sample, and the medians over the rounds replace the
    speeds of the evaluation. For that the models are loaded again and are in memory TOGETHER; with
    `speed_rounds=0` they never are, and the speeds are those of the evaluation.

    Args:
        models: Folders, hub names or loaded models.
        data: BEIR folder or hub dataset (see `load_beir`), or data that are loaded already.
        documents: The model whose index is kept: the first row, and what the others are measured
            against. Each of them answers from that model's documents and from its own.
        split: As in `evaluate`.
        drop_same_id: As in `evaluate`.
        max_length: As in `evaluate`.
        truncate_dim: As in `evaluate`.
        batch_size: As in `evaluate`.
        dtype: As in `evaluate`.
        device: As in `evaluate`.
        speed_rounds: Rounds of interleaved timing; 0 for none.
        speed_documents: Documents in the sample, spread evenly over the corpus.
        speed_queries: Queries in the sample, spread evenly.
        show_progress: Draw progress bars;
            None: where someone watches, in a notebook or a terminal.

    Returns:
        One evaluation a model, in the order given; with `documents`, one of that model and then
        two a model, on that one's documents first.

    Raises:
        FileNotFoundError: If data or a model are not there.
        ValueError: As in `evaluate`; if there is no model, or a sample or round count is too small.
    """
    show_progress = is_shown(show_progress)
    _check_counts(len(models), speed_rounds, speed_documents, speed_queries)
    check_sizes(batch_size=batch_size, max_length=max_length, truncate_dim=truncate_dim)
    check_drop_same_id(drop_same_id or "auto")
    compared = [*models] if documents is None else [documents, *models]
    for model in compared:
        check_model(model, dtype, device)
    import_extra("ir_measures")
    data = retrieval_data(data, split, drop_same_id, show_progress=show_progress)
    settings = Settings(
        batch_size=batch_size,
        max_length=max_length,
        dtype=dtype,
        device=device,
        truncate_dim=truncate_dim,
    )
    kept: Encoded | None = None
    evaluations = Comparison()
    for model in progress_bar(compared, desc="Evaluating", unit="model", shown=show_progress):
        found = encode_data(model, data, settings, show_progress=show_progress)
        if kept is not None:
            evaluations.append(score(found, data, kept, show_progress=show_progress))
        evaluations.append(score(found, data, show_progress=show_progress))
        if documents is not None and kept is None:
            kept = found
    if speed_rounds == 0:
        return evaluations
    speeds = interleaved_speed(
        [load_model(x, max_length=max_length, dtype=dtype, device=device) for x in compared],
        _sample(data.documents, speed_documents),
        _sample(data.queries, speed_queries),
        rounds=speed_rounds,
        batch_size=batch_size,
        max_length=max_length,
        show_progress=show_progress,
    )
    if documents is None:
        return _with_speeds(evaluations, speeds)
    first, *rest = speeds
    rows = [first, *(row for own in rest for row in (_on_documents_of(first, own), own))]
    return _with_speeds(evaluations, rows)


def _on_documents_of(full: Speed, own: Speed) -> Speed:
    return dataclasses.replace(own, documents_per_second=full.documents_per_second)


def _check_counts(models: int, rounds: int, documents: int, queries: int) -> None:
    if models < 1:
        raise ValueError("no models; compare needs at least one.")
    if rounds < 0 or documents < 1 or queries < 1:
        raise ValueError(
            f"speed_rounds={rounds}, speed_documents={documents}, speed_queries={queries}; rounds "
            "from 0, samples from 1."
        )


def _sample(texts: dict[str, str], count: int) -> list[str]:
    """Take at most `count` texts, evenly spread, so that a sorted corpus is sampled fairly."""
    values = list(texts.values())
    chosen = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[position] for position in chosen]


def _with_speeds(evaluations: Comparison, speeds: Sequence[Speed]) -> Comparison:
    pairs = zip(evaluations, speeds, strict=True)
    return Comparison(_with_speed(evaluation, speed) for evaluation, speed in pairs)


def _with_speed(evaluation: Evaluation, speed: Speed) -> Evaluation:
    return dataclasses.replace(
        evaluation,
        documents_per_second=speed.documents_per_second,
        queries_per_second=speed.queries_per_second,
        query_latency_ms=1000 * speed.query_latency,
    )
