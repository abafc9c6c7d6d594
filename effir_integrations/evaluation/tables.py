"""Lay evaluations side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from effir_integrations.evaluation.retrieval import METRICS
from effir_integrations.html_table import html_table

if TYPE_CHECKING:
    from effir_integrations.evaluation.evaluate import Evaluation
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


def evaluations_html(evaluations: Sequence[Evaluation]) -> str:
    """Return the table for a notebook that tells most: of searches, where they differ.

    Raises:
        ValueError: As `comparison_table`.
    """
    exact = all(evaluation.search == "exact" for evaluation in evaluations)
    return html_table((comparison_table if exact else search_table)(evaluations))


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
        (
            e.dtype,
            f"at most {e.max_length} tokens",
            "" if e.truncate_dim is None else f"first {e.truncate_dim} dimensions",
            _batches(e.batch_size),
            e.device,
        )
        for e in evaluations
        if e.parameters is not None
    ]
    columns = (" / ".join(dict.fromkeys(filter(None, x))) for x in zip(*rows, strict=True))
    return ", ".join(filter(None, columns))


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
