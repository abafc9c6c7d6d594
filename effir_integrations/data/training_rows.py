"""Read rows of training data, one at a time, and check each with its file and line."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.data.hub import parse_dataset_name, shown, stream_rows
from effir_integrations.data.jsonl import read_jsonl
from effir_integrations.data.text import clean_text

logger = logging.getLogger(__name__)

Source = str | Path | Sequence[Mapping[str, Any]]
"""A .jsonl file, a BEIR folder, a `datasets` name, or the rows themselves."""
Kind = Literal["file", "beir", "name", "rows"]

SCHEMA = (
    "expected query, pos, neg (lists of strings), or query, positive_passages, negative_passages "
    "(lists of objects with title and text)"
)
_PASSAGES = {"pos": "positive_passages", "neg": "negative_passages"}


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """One query with its passages, as one line of a source holds it; surrogates are cleaned."""

    where: str
    """File and line, for errors."""
    number: int
    """Line or row, from 1."""
    query: str
    """The query, without a prompt."""
    prompt: str | None
    """What this row wants in front of its query; None leaves that to the reader."""
    positives: tuple[str, ...]
    """At least one relevant passage."""
    negatives: tuple[str, ...]
    """Passages that are not relevant; may be empty."""
    positive_scores: tuple[float, ...] | None = None
    """One finite score a positive, or None if scores were not asked for."""
    negative_scores: tuple[float, ...] | None = None
    """One finite score a negative, or None if scores were not asked for."""


def source_kind(source: Source) -> Kind:
    """Say what a source is, without reading it.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If it is no kind of source, or a file that is not .jsonl.
    """
    if isinstance(source, (str, Path)):
        path = Path(os.path.expanduser(source))
        if os.path.isfile(path):
            if path.suffix.lower() != ".jsonl":
                raise ValueError(
                    f"{path}: training data is read from .jsonl files, not {path.suffix!r}; "
                    f"convert it: {SCHEMA}."
                )
            return "file"
        if os.path.isfile(path / "corpus.jsonl") or os.path.isdir(path / "qrels"):
            return "beir"
        dataset = parse_dataset_name(source)
        if dataset is None:
            raise FileNotFoundError(
                f"{shown(source)}: nothing is there; expected a .jsonl file, a BEIR folder with "
                "corpus.jsonl, or a datasets name: owner/name[:config[:split]]."
            )
        if dataset.column is not None:
            raise ValueError(
                f"{source}: names the column {dataset.column!r}, but training data has several; "
                "leave #COLUMN out."
            )
        return "name"
    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return "rows"
    raise ValueError(
        f"training data of type {type(source).__name__} is not known; give a .jsonl file, a BEIR "
        "folder, a datasets name, or a list of dictionaries."
    )


def source_name(source: Source) -> str:
    """Return a source as it was given, or "rows" for rows in memory."""
    return str(source) if isinstance(source, (str, Path)) else "rows"


def read_rows(
    source: Source, *, split: str = "train", scored: bool = False
) -> Iterator[TrainingRow]:
    """Yield the checked rows of a source, in its order.

    Args:
        source: See `Source`. A file or dataset has the schema of FlagEmbedding (`query`, `pos`,
            `neg`, and perhaps `pos_scores`, `neg_scores`, `prompt`) or that of Tevatron (`query`,
            `positive_passages`, `negative_passages`; title and text are joined by a space).
        split: Which judgements of a BEIR folder to read.
        scored: Require and check scores; otherwise they are ignored.

    Raises:
        FileNotFoundError: If nothing is there, or the BEIR folder has no such split.
        ImportError: If a `datasets` name is given and that package is not installed.
        ValueError: If a row cannot be used; names where it is, what it holds and what to do.
    """
    kind = source_kind(source)
    for where, number, raw in _raw_rows(source, kind, split):
        yield parse_row(raw, where=where, number=number, scored=scored)


def has_scores(source: Source) -> bool:
    """Say whether any row brings scores; of a `datasets` name only the first row is looked at.

    Raises:
        FileNotFoundError: If nothing is there.
        ImportError: If a `datasets` name is given and that package is not installed.
        ValueError: If a line before the first scores is no JSON object.
    """
    kind = source_kind(source)
    if kind == "beir":
        return False
    rows = islice(_raw_rows(source, kind, "train"), 1 if kind == "name" else None)
    keys = ("pos_scores", "neg_scores")
    return any(raw.get(key) is not None for _, _, raw in rows for key in keys)


def _raw_rows(source: Any, kind: Kind, split: str) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    if kind == "file":
        path = Path(os.path.expanduser(source))
        for line, raw in read_jsonl(path):
            yield f"{path} line {line}", line, raw
    elif kind == "beir":
        yield from beir_rows(str(source), load_beir(os.path.expanduser(source), split))
    else:
        rows: Iterable[Any] = source
        if kind == "name":
            dataset = parse_dataset_name(source)
            if dataset is None:
                raise RuntimeError(f"{source}: no longer a datasets name; was it moved?")
            rows = stream_rows(str(source), dataset, extra="train")
        for number, raw in enumerate(rows, start=1):
            where = f"{source_name(source)} row {number}"
            if not isinstance(raw, Mapping):
                raise ValueError(f"{where}: a {type(raw).__name__}, not a dictionary; {SCHEMA}.")
            yield where, number, raw


def beir_rows(source: str, data: RetrievalData) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Yield the judged queries as raw rows without negatives; those with no positive are left out.

    Such queries are no fault of a BEIR folder, so they are counted in a warning.
    """
    unanswered = 0
    for number, query in enumerate(data.queries, start=1):
        positives = [data.documents[document] for document in data.relevant(query)]
        unanswered += not positives
        if positives:
            where = f"{source} split {data.split!r} query {query!r}"
            yield where, number, {"query": data.queries[query], "pos": positives}
    if unanswered:
        logger.warning("%s: %d queries have no relevant document: left out", source, unanswered)


def parse_row(
    raw: Mapping[str, Any], *, where: str, number: int, scored: bool = False
) -> TrainingRow:
    """Check one row of either schema.

    Raises:
        ValueError: See `read_rows`.
    """
    tevatron = raw.get("pos") is None and raw.get(_PASSAGES["pos"]) is not None
    if "query" not in raw or not ("pos" in raw or tevatron):
        keys = ", ".join(repr(key) for key in list(raw)[:8]) or "none"
        raise ValueError(f"{where}: unknown schema; its keys are: {keys}; {SCHEMA}.")
    read = _passages if tevatron else _texts
    positives = read(raw, _PASSAGES["pos"] if tevatron else "pos", where)
    negatives = read(raw, _PASSAGES["neg"] if tevatron else "neg", where)
    if not positives:
        raise ValueError(
            f"{where}: has no positive passage; give each query at least one, or remove the line."
        )
    prompt = raw.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(
            f"{where}: its 'prompt' is {shown(prompt)}, not a string; correct or remove it."
        )
    return TrainingRow(
        where=where,
        number=number,
        query=_text(raw["query"], "'query'", where),
        prompt=None if prompt is None else clean_text(prompt),
        positives=positives,
        negatives=negatives,
        positive_scores=_scores(raw, "pos_scores", len(positives), where) if scored else None,
        negative_scores=_scores(raw, "neg_scores", len(negatives), where) if scored else None,
    )


def _texts(raw: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = _list(raw, key, where, "strings")
    return tuple(_text(value, f"{key}[{i}]", where) for i, value in enumerate(values))


def _passages(raw: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    texts = []
    for index, passage in enumerate(_list(raw, key, where, "objects with title and text")):
        if not isinstance(passage, Mapping) or not isinstance(passage.get("text"), str):
            raise ValueError(
                f"{where}: {key}[{index}] is {shown(passage)}, not an object whose 'text' is a "
                "string; correct it."
            )
        title = passage.get("title") or ""
        if not isinstance(title, str):
            raise ValueError(f"{where}: the title of {key}[{index}] is not a string; correct it.")
        texts.append(_text(f"{title} {passage['text']}".strip(), f"{key}[{index}]", where))
    return tuple(texts)


def _list(raw: Mapping[str, Any], key: str, where: str, of: str) -> Sequence[Any]:
    values = raw.get(key)
    # Arrow spells a list that is not there as null.
    if values is None:
        return ()
    if not isinstance(values, (list, tuple)):
        raise ValueError(
            f"{where}: its {key!r} is {shown(values)}, not a list of {of}; correct it."
        )
    return values


def _text(value: object, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} is {shown(str(value))}, not a string; correct it.")
    if not value.strip():
        raise ValueError(f"{where}: {name} is {value[:20]!r}, which is blank; fill or remove it.")
    return clean_text(value)


def _scores(raw: Mapping[str, Any], key: str, passages: int, where: str) -> tuple[float, ...]:
    values = raw.get(key)
    if values is None:
        if passages == 0:
            return ()
        raise ValueError(
            f"{where}: has no {key!r}; add scores of a cross-encoder with `effir score` first."
        )
    if not isinstance(values, (list, tuple)):
        raise ValueError(
            f"{where}: its {key!r} is {shown(values)}, not a list of numbers; "
            "score the file again with `effir score`."
        )
    if len(values) != passages:
        raise ValueError(
            f"{where}: {len(values)} {key} for {passages} passages; each passage needs one score: "
            "score the file again with `effir score`."
        )
    return tuple(_score(value, f"{key}[{i}]", where) for i, value in enumerate(values))


def _score(value: object, name: str, where: str) -> float:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if math.isfinite(number := float(value)):
                return number
    except OverflowError:
        pass
    raise ValueError(
        f"{where}: {name} is {shown(str(value))}, not a finite number; "
        "score the file again with `effir score`."
    )


def check_new_jsonl(out: Path, *, force: bool) -> None:
    """Refuse a path that cannot become a new training file.

    Raises:
        FileExistsError: If a folder is there, or a file and `force` was not given.
        ValueError: If it is not spelled .jsonl, by which such files are recognised.
    """
    if out.suffix.lower() != ".jsonl":
        raise ValueError(f"{out}: training data is written to .jsonl files; name it so.")
    if out.is_dir():
        raise FileExistsError(f"{out} is a folder; name a new .jsonl file to write to.")
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; choose another file, or replace it (--force).")
