"""Measure several models on the same data and lay the figures side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from effir_integrations.data.beir import RetrievalData, check_drop_same_id, retrieval_data
from effir_integrations.evaluation.encoded import Encoded, Settings, encode_data
from effir_integrations.evaluation.evaluate import Evaluation, score
from effir_integrations.evaluation.models import check_model, load_model
from effir_integrations.evaluation.retrieval import METRICS
from effir_integrations.evaluation.speed import Speed, interleaved_speed

from ..extras import import_extra
from ..progress import progress_bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from effir_integrations.evaluation.wide_table import WideTable

_SEARCH_FIGURES = (*METRICS, "documents/s", "queries/s", "ms/query")
_FIGURES = (
    "parameters",
    "non-embedding",
    "MB",
    "nDCG@10",
    "R@100",
    "documents/s",
    "queries/s",
    "ms/query",
)


def compare(
    models: Sequence[SentenceTransformer | str | Path],
    data: RetrievalData | str | Path,
    *,
    documents: SentenceTransformer | str | Path | None = None,
    split: str = "test",
    drop_same_id: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    dtype: str = "auto",
    device: str | None = None,
    speed_rounds: int = 3,
    speed_documents: int = 256,
    speed_queries: int = 64,
    show_progress: bool = False,
) -> list[Evaluation]:
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
        batch_size: As in `evaluate`.
        dtype: As in `evaluate`.
        device: As in `evaluate`.
        speed_rounds: Rounds of interleaved timing; 0 for none.
        speed_documents: Documents in the sample, spread evenly over the corpus.
        speed_queries: Queries in the sample, spread evenly.
        show_progress: Draw progress bars.

    Returns:
        One evaluation a model, in the order given; with `documents`, one of that model and then
        two a model, on that one's documents first.

    Raises:
        FileNotFoundError: If data or a model are not there.
        ValueError: As in `evaluate`; if there is no model, or a sample or round count is too small.
    """
    _check_counts(len(models), speed_rounds, speed_documents, speed_queries)
    check_drop_same_id(drop_same_id or "auto")
    compared = [*models] if documents is None else [documents, *models]
    for model in compared:
        check_model(model, dtype, device)
    import_extra("ir_measures")
    data = retrieval_data(data, split, drop_same_id, show_progress=show_progress)
    settings = Settings(batch_size=batch_size, max_length=max_length, dtype=dtype, device=device)
    kept: Encoded | None = None
    evaluations = []
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
        return [_with_speed(*pair) for pair in zip(evaluations, speeds, strict=True)]
    first, *rest = speeds
    rows = [first, *(row for own in rest for row in (_on_documents_of(first, own), own))]
    return [_with_speed(*pair) for pair in zip(evaluations, rows, strict=True)]


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


def _with_speed(evaluation: Evaluation, speed: Speed) -> Evaluation:
    return dataclasses.replace(
        evaluation,
        documents_per_second=speed.documents_per_second,
        queries_per_second=speed.queries_per_second,
        query_latency_ms=1000 * speed.query_latency,
    )


def comparison_table(evaluations: Sequence[Evaluation]) -> WideTable:
    """Lay evaluations on the same data side by side.

    Below the figures of every model but the first stands what they are of those of the first: a
    share of parameters, size and nDCG@10, and how many times as fast it is.

    Raises:
        ValueError: If there are no evaluations, or they are of different data or splits.
    """
    from rich.markup import escape

    table = _table(evaluations, "model")
    table.add_figures(_FIGURES)
    first = evaluations[0]
    for label, evaluation in zip(_row_labels(evaluations), evaluations, strict=True):
        table.add_row(escape(label), *_cells(evaluation))
        if evaluation is not first:
            cosine = evaluation.query_cosine
            below = "" if cosine is None else f"  cosine of queries {cosine:.4f}"
            table.add_row(below, *_shares(evaluation, first))
    return table


def _row_labels(evaluations: Sequence[Evaluation]) -> list[str]:
    """Name every row: its model, and whose documents it searched where they are another's."""
    own = iter(_labels([e.model for e in evaluations if e.documents_by is None]))
    names = list(dict.fromkeys(x for e in evaluations for x in (e.model, e.documents_by) if x))
    short = dict(zip(names, _labels(names), strict=True))
    return [
        f"{short[e.model]}, on documents of {short[e.documents_by]}"
        if e.documents_by
        else next(own)
        for e in evaluations
    ]


def search_table(evaluations: Sequence[Evaluation]) -> WideTable:
    """Lay several ways of searching the same data side by side.

    Raises:
        ValueError: If there are no evaluations, or they are of different data or splits.
    """
    from rich.markup import escape

    table = _table(evaluations, "model", "search")
    table.add_figures(_SEARCH_FIGURES)
    models = list(dict.fromkeys(evaluation.model for evaluation in evaluations))
    labels = dict(zip(models, _labels(models), strict=True))
    for evaluation in evaluations:
        names = escape(labels[evaluation.model]), escape(evaluation.search)
        quality = [f"{value:.4f}" for value in evaluation.metrics.values()]
        table.add_row(*names, *quality, *_speeds(evaluation))
    return table


def _table(evaluations: Sequence[Evaluation], *labels: str) -> WideTable:
    from rich.markup import escape

    from effir_integrations.evaluation.wide_table import WideTable

    measured_on = sorted({f"{e.data} ({e.split})" for e in evaluations})
    if len(measured_on) != 1:
        raise ValueError(
            f"evaluations on {', '.join(measured_on) or 'nothing'}; a table compares models on one "
            "split of one data set."
        )
    table = WideTable(title=escape(measured_on[0]), caption=escape(_settings(evaluations)))
    table.labels = len(labels)
    for label in labels:
        table.add_column(label, overflow="fold")
    return table


def _settings(evaluations: Sequence[Evaluation]) -> str:
    """Name the settings that the figures depend on; several values mean that models differ."""
    rows = [
        (e.dtype, f"at most {e.max_length} tokens", _batches(e.batch_size), e.device)
        for e in evaluations
        if e.parameters is not None
    ]
    return ", ".join(" / ".join(dict.fromkeys(values)) for values in zip(*rows, strict=True))


def _batches(batch_size: int | None) -> str:
    return "batches by tokens" if batch_size is None else f"batches of {batch_size}"


def _cells(evaluation: Evaluation) -> list[str]:
    return [
        _number(evaluation.parameters, ",d"),
        _number(evaluation.non_embedding_parameters, ",d"),
        _number(evaluation.bytes, ",.1f", divisor=1e6),
        f"{evaluation.metrics['nDCG@10']:.4f}",
        f"{evaluation.metrics['R@100']:.4f}",
        *_speeds(evaluation),
    ]


def _shares(evaluation: Evaluation, first: Evaluation) -> list[str]:
    def share(figure: Callable[[Evaluation], float | None]) -> str:
        return _ratio(figure(evaluation), figure(first), "{:.1%}")

    return [
        share(lambda x: x.parameters),
        share(lambda x: x.non_embedding_parameters),
        share(lambda x: x.bytes),
        share(lambda x: x.metrics["nDCG@10"]),
        "",
        _ratio(evaluation.documents_per_second, first.documents_per_second, "{:.2f}x"),
        _ratio(evaluation.queries_per_second, first.queries_per_second, "{:.2f}x"),
        "",
    ]


def _speeds(evaluation: Evaluation) -> list[str]:
    return [
        _number(evaluation.documents_per_second, ",.1f"),
        _number(evaluation.queries_per_second, ",.1f"),
        _number(evaluation.query_latency_ms, ",.2f"),
    ]


def _number(value: float | None, spelling: str, divisor: float = 1) -> str:
    if value is None:
        return "-"
    return format(value if divisor == 1 else value / divisor, spelling)


def _ratio(value: float | None, whole: float | None, spelling: str) -> str:
    return spelling.format(value / whole) if whole and value is not None else ""


def _labels(names: Sequence[str]) -> list[str]:
    """Shorten paths to the fewest last parts that tell them apart; number equal names."""
    parts = {name: PurePath(name).parts or (name,) for name in names}
    labels = []
    for position, name in enumerate(names):
        others = [parts[other] for other in parts if parts[other] != parts[name]]
        own = parts[name]
        depth = next(
            (d for d in range(1, len(own)) if all(own[-d:] != other[-d:] for other in others)),
            len(own),
        )
        label = str(PurePath(*own[-depth:]))
        twins = sum(parts[other] == own for other in names)
        earlier = sum(parts[other] == own for other in names[:position])
        labels.append(f"{label} ({earlier + 1})" if twins > 1 else label)
    return labels
