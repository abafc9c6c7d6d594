"""Check what the command line names, and hand Pyserini topics whose ids stay strings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ...data.jsonl import read_jsonl, read_lines
from ...files import read_json, write_json

_ID_KEYS = ("qid", "_id", "id", "query_id")
_TEXT_KEYS = ("title", "text", "query")
_READ_BY_PYSERINI = (".trec", ".txt", ".txt.gz", ".tsv.gz")
_EXPECTED = 'topics: {"QUERY ID": {"title": "TEXT"}, ...}'


def refuse_missing(value: str | None, option: str, advice: str) -> Path | None:
    """Return the path of what an option names; None for what may be a name that Pyserini knows.

    Args:
        value: Of the option.
        option: For the error.
        advice: What to give instead.

    Raises:
        FileNotFoundError: Nothing is there, and it is a path, or names cannot be downloaded.
        ValueError: The option is not there.
    """
    if value is None:
        raise ValueError(f"{option} is missing; {advice}")
    path = Path(value)
    if path.exists():
        return path
    if os.sep in value or "/" in value or path.suffix in (".json", ".jsonl", ".tsv", ".txt"):
        raise FileNotFoundError(f"{option} {value}: nothing is there; {advice}")
    if _offline():
        raise FileNotFoundError(
            f"{option} {value}: nothing is there, and a name of Pyserini's would have to be "
            f"downloaded, which HF_HUB_OFFLINE=1 forbids; {advice}"
        )
    return None


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def topics_with_string_ids(path: Path, scratch: Path) -> Path:
    """Return a file of the same queries of which Pyserini reads the ids as they are.

    From .tsv it makes numbers of ids that look like numbers: "007" becomes 7, and a document of
    the same id is no longer recognised. Queries of BEIR (.jsonl with `_id` and `text`) it does not
    read. Both are copied to .json; other kinds that Pyserini reads are left to it.

    Args:
        path: File of topics.
        scratch: Folder for the copy.

    Raises:
        ValueError: The file holds no query, a line of it cannot be used, or nobody reads its kind.
    """
    if path.suffix == ".json":
        topics = read_json(path, _EXPECTED)
        _check_topics(topics, path)
        return path
    if path.name.endswith(_READ_BY_PYSERINI):
        return path
    if path.suffix not in (".jsonl", ".tsv"):
        raise ValueError(
            f"--topics {path}: neither Pyserini nor this package reads topics from a file of that "
            f"ending; write .json ({_EXPECTED}), .jsonl, or .tsv (QUERY ID, tab, TEXT)"
        )
    pairs = _jsonl_pairs(path) if path.suffix == ".jsonl" else _tsv_pairs(path)
    copy = scratch / f"{path.stem}.json"
    write_topics(_unique(pairs, path), copy)
    return copy


def write_topics(queries: Mapping[str, str], path: Path) -> None:
    """Write queries, id -> text, as topics that Pyserini reads.

    Raises:
        ValueError: There are none.
    """
    if not queries:
        raise ValueError(f"there is no query to write to {path}; give at least one")
    write_json(path, {query: {"title": text} for query, text in queries.items()})


def write_qrels(qrels: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """Write judgements, query id -> document id -> relevance, as `trec_eval` reads them."""
    lines = (
        f"{query} 0 {document} {relevance}\n"
        for query, judged in qrels.items()
        for document, relevance in judged.items()
    )
    path.write_text("".join(lines), encoding="utf-8")


def _check_topics(topics: Mapping[str, object], path: Path) -> None:
    if not topics:
        raise ValueError(f"{path} holds no query; expected {_EXPECTED}")
    for query, content in topics.items():
        if not isinstance(content, dict) or not isinstance(content.get("title"), str):
            raise ValueError(
                f"{path}: query {query!r} has no title ({json.dumps(content)[:60]}); expected "
                f"{_EXPECTED}"
            )


def _unique(pairs: Iterable[tuple[str, str]], path: Path) -> dict[str, str]:
    topics: dict[str, str] = {}
    for query, text in pairs:
        if query in topics:
            raise ValueError(f"{path}: the query id {query!r} is there twice; make ids unique")
        topics[query] = text
    if not topics:
        raise ValueError(f"{path} holds no query; give at least one")
    return topics


def _tsv_pairs(path: Path) -> Iterator[tuple[str, str]]:
    for line, content in read_lines(path):
        query, tab, text = content.partition("\t")
        if not tab or not query.strip():
            raise ValueError(
                f"{path} line {line}: {content[:60]!r} is no query id and text with a tab between"
            )
        yield query.strip(), text.strip()


def _jsonl_pairs(path: Path) -> Iterator[tuple[str, str]]:
    for line, row in read_jsonl(path):
        query = next((row[key] for key in _ID_KEYS if row.get(key) is not None), None)
        text = next((row[key] for key in _TEXT_KEYS if row.get(key) is not None), None)
        if not isinstance(query, str | int) or not isinstance(text, str):
            raise ValueError(
                f"{path} line {line}: a query needs an id (one of {', '.join(_ID_KEYS)}) and a "
                f"text (one of {', '.join(_TEXT_KEYS)}); its keys are {', '.join(row) or 'none'}"
            )
        yield str(query), text
