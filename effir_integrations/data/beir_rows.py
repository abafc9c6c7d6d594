"""The rows of retrieval data in the BEIR layout, from a folder or from a hub dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Any

from effir_integrations.data.jsonl import read_jsonl, read_lines
from effir_integrations.extras import import_extra

Row = tuple[str, Mapping[str, Any]]
"""Where something is written, such as "FILE line 3", and what is written there."""

_COLUMNS = ("query-id", "corpus-id", "score")


def grade(value: object) -> int | None:
    """Return a graded judgement, also where it is spelled 1.0; None for what is none, as 0.5."""
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        return None


def folder_rows(folder: Path, split: str) -> tuple[Iterator[Row], Iterator[Row], Iterator[Row]]:
    """Return the rows of documents, of queries and of the judgements of a split.

    Raises:
        FileNotFoundError: If one of the three is not there.
    """
    qrels = folder / "qrels" / f"{split}.tsv"
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels"):
        if not path.exists():
            raise FileNotFoundError(
                f"{folder}: expected a BEIR folder with corpus.jsonl, queries.jsonl and "
                f"qrels/{split}.tsv; {path.name} is not there."
            )
    if not qrels.is_file():
        found = [path.stem for path in sorted(qrels.parent.glob("*.tsv"))]
        raise FileNotFoundError(_no_split(str(folder), split, found))
    return (
        _jsonl_rows(folder / "corpus.jsonl"),
        _jsonl_rows(folder / "queries.jsonl"),
        qrels_rows(qrels),
    )


def _no_split(source: str, split: str, found: list[str]) -> str:
    return f"{source}: no judgements for split {split!r}; there are: {', '.join(found) or 'none'}."


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for line, row in read_jsonl(path, required=("_id", "text")):
        yield f"{path} line {line}", row


def qrels_rows(path: Path) -> Iterator[Row]:
    """Yield the judgements of a file `query-id corpus-id score`, with that header or without.

    Raises:
        ValueError: If a line has other columns.
    """
    lines = iter(read_lines(path))
    number, header = next(lines, (1, ""))
    first = header.split("\t")
    if len(first) == len(_COLUMNS) and _number(first[-1]) is not None:
        # some copies of the larger corpora come without the header
        lines = chain([(number, header)], lines)
    elif tuple(first) != _COLUMNS:
        raise ValueError(
            f"{path} line {number}: the header is {header[:60]!r}; expected the columns "
            "query-id, corpus-id, score, separated by tabs."
        )
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(_COLUMNS):
            raise ValueError(
                f"{path} line {number}: {len(fields)} columns in {line[:60]!r}; expected "
                "query-id, corpus-id, score, separated by tabs."
            )
        yield f"{path} line {number}", dict(zip(_COLUMNS, fields, strict=True))


def hub_rows(source: str, split: str) -> tuple[Iterator[Row], Iterator[Row], Iterator[Row]]:
    """Return what `folder_rows` does, of a hub dataset or a local copy of one.

    Raises:
        FileNotFoundError: If one of the three is not there.
    """
    corpus = _load_config(source, "corpus")
    queries = _load_config(source, "queries")
    qrels = _load_qrels(source)
    if split not in qrels:
        raise FileNotFoundError(_no_split(source, split, sorted(qrels)))
    return (
        _dataset_rows(source, corpus, "corpus"),
        _dataset_rows(source, queries, "queries"),
        _dataset_rows(source, qrels, split),
    )


def _load_qrels(source: str) -> dict[str, Any]:
    """Find the judgements: in the config `default`, or else in a dataset of their own."""
    reasons = []
    for name, config in ((source, "default"), (f"{source}-qrels", None)):
        try:
            splits = _load_config(name, config)
        except FileNotFoundError as error:
            reasons.append(str(error))
            continue
        if all(set(_COLUMNS) <= set(rows.column_names) for rows in splits.values()):
            return splits
        reasons.append(f"{name}: lacks a column of {', '.join(_COLUMNS)}")
    raise FileNotFoundError(f"{source}: no judgements found: {'; '.join(reasons)}")


def _load_config(source: str, config: str | None) -> dict[str, Any]:
    datasets = import_extra("datasets")
    try:
        return dict(datasets.load_dataset(source, config))
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = shorten(str(error.__cause__ or error), 200, placeholder=" ...")
        offline = datasets.config.HF_HUB_OFFLINE and not Path(source).is_dir()
        advice = ", or unset HF_HUB_OFFLINE to fetch the dataset" if offline else ""
        raise FileNotFoundError(
            f"{source}: no BEIR folder, and config {config or 'default'!r} of the dataset of that "
            f"name cannot be loaded ({reason}); give a BEIR folder{advice}."
        ) from error


def _dataset_rows(source: str, splits: Mapping[str, Any], split: str) -> Iterator[Row]:
    """Yield the rows of a split, or of the only split, whatever its name."""
    rows = splits[split] if split in splits else next(iter(splits.values()))
    for number, row in enumerate(rows, start=1):
        yield f"{source} {split} row {number}", row
