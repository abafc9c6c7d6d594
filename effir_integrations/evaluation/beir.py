"""Read retrieval data in the BEIR layout, from a folder or from a hub dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Any

from tqdm import tqdm

from effir_integrations.dataset_names import HUB_NAME
from effir_integrations.extras import import_extra
from effir_integrations.jsonl import read_jsonl, read_lines

Row = tuple[str, Mapping[str, Any]]
"""Where something is written, such as "FILE line 3", and what is written there."""

_COLUMNS = ("query-id", "corpus-id", "score")


@dataclass(frozen=True, kw_only=True)
class RetrievalData:
    """Documents, the judged queries and their judgements."""

    name: str
    """Name of the data set: a folder's name, or OWNER/NAME of a hub dataset."""
    split: str
    """Which queries: "test", "train", ..."""
    documents: dict[str, str]
    """Document id -> title and text joined by one space, stripped."""
    queries: dict[str, str]
    """Query id -> text, only the queries that have judgements."""
    qrels: dict[str, dict[str, int]]
    """Query id -> document id -> graded relevance; 0 and below mean not relevant."""

    def __post_init__(self) -> None:
        if not self.documents:
            raise ValueError(f"{self.name}: no documents; retrieval needs at least one.")
        if not any(self.qrels.values()):
            raise ValueError(f"{self.name}, split {self.split!r}: no judged query.")
        for query, judged in self.qrels.items():
            if query not in self.queries:
                raise ValueError(f"{self.name}: qrels name the unknown query {query!r}.")
            for document in judged:
                if document not in self.documents:
                    raise ValueError(f"{self.name}: qrels name the unknown document {document!r}.")
        for query in self.queries:
            if query not in self.qrels:
                raise ValueError(f"{self.name}: query {query!r} has no judgement; leave it out.")


def load_beir(
    source: str | Path, split: str = "test", *, show_progress: bool = False
) -> RetrievalData:
    """Load retrieval data from a BEIR folder or, where no such folder exists, from the hub.

    A BEIR folder holds `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and
    `qrels/SPLIT.tsv` with the header `query-id corpus-id score`, or with none. A hub dataset, or a
    local copy of one, has the configs `corpus` and `queries`, and its judgements either in the
    config `default` (as mteb/scifact) or in a second dataset named SOURCE-qrels (as BeIR/scifact).

    Args:
        source: Folder, or OWNER/NAME on the hub.
        split: Which judgements to read.
        show_progress: Draw a progress bar over the corpus.

    Raises:
        FileNotFoundError: If nothing readable is at `source`, or the split is not there.
        ValueError: If a line cannot be used: not JSON, no `_id` or text, an id used twice, a
            judgement that is malformed or names an id that does not exist; or if nothing is left.
    """
    folder = Path(source)
    if folder.is_dir():
        if any((folder / "qrels").glob("*.tsv")) or not (folder / "README.md").is_file():
            corpus, queries, qrels = _folder_rows(folder, split)
            name = folder.resolve().name
            return _assemble(name, split, corpus, queries, qrels, show_progress)
    elif folder.exists():
        raise FileNotFoundError(f"{source} is a file; give the BEIR folder around corpus.jsonl.")
    elif not HUB_NAME.fullmatch(str(source)):
        raise FileNotFoundError(
            f"{source}: no such folder, nor OWNER/NAME of a hub dataset; give a BEIR folder "
            "(corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv) or a name such as mteb/scifact."
        )
    corpus, queries, qrels = _hub_rows(str(source), split)
    name = folder.resolve().name if folder.is_dir() else str(source)
    return _assemble(name, split, corpus, queries, qrels, show_progress)


def _assemble(
    name: str,
    split: str,
    corpus: Iterator[Row],
    queries: Iterator[Row],
    qrels: Iterator[Row],
    show_progress: bool,
) -> RetrievalData:
    query_texts = _texts(queries, "query")
    progress = tqdm(
        corpus,
        desc=f"Reading {name}",
        unit="document",
        delay=2,
        disable=not show_progress,
        leave=False,
    )
    documents = _texts(progress, "document")
    if not documents:
        raise ValueError(f"{name}: the corpus is empty; it needs at least one document.")
    judgements = _judgements(qrels, query_texts, documents)
    if not judgements:
        raise ValueError(f"{name}: split {split!r} has no judged query; choose another split.")
    return RetrievalData(
        name=name,
        split=split,
        documents=documents,
        queries={query: query_texts[query] for query in judgements},
        qrels=judgements,
    )


def _texts(rows: Iterable[Row], kind: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for where, row in rows:
        identifier = _identifier(where, row, "_id")
        if identifier in texts:
            raise ValueError(
                f"{where}: {kind} id {identifier!r} was used before; make the ids unique."
            )
        text = row.get("text")
        if not isinstance(text, str):
            raise ValueError(
                f"{where}: {kind} {identifier!r} has no text; give the key 'text' a string."
            )
        title = (row.get("title") or "") if kind == "document" else ""
        if not isinstance(title, str):
            raise ValueError(f"{where}: the title of {kind} {identifier!r} is not a string.")
        texts[identifier] = f"{title} {text}".strip()
    return texts


def _identifier(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    # Readers that guess column types make integers of ids such as "31715818".
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: no {key!r}; it must be a string that is not empty.")
    return value


def _judgements(
    rows: Iterator[Row], queries: Mapping[str, str], documents: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for where, row in rows:
        query = _identifier(where, row, "query-id")
        document = _identifier(where, row, "corpus-id")
        if query not in queries:
            raise ValueError(f"{where}: query {query!r} is not among the queries.")
        if document not in documents:
            raise ValueError(f"{where}: document {document!r} is not in the corpus.")
        relevance = _relevance(where, row.get("score"))
        judged = qrels.setdefault(query, {})
        if judged.setdefault(document, relevance) != relevance:
            raise ValueError(
                f"{where}: query {query!r} and document {document!r} were judged "
                f"{judged[document]} before, {relevance} here; keep one of the two lines."
            )
    return qrels


def _relevance(where: str, value: object) -> int:
    try:
        # A hub dataset holds 1 as 1.0; 0.5 is no graded judgement.
        if isinstance(value, str) or (isinstance(value, int | float) and value == int(value)):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{where}: score {value!r} is not an integer.")


def _folder_rows(folder: Path, split: str) -> tuple[Iterator[Row], Iterator[Row], Iterator[Row]]:
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
        _tsv_rows(qrels),
    )


def _no_split(source: str, split: str, found: list[str]) -> str:
    return f"{source}: no judgements for split {split!r}; there are: {', '.join(found) or 'none'}."


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for line, row in read_jsonl(path, required=("_id", "text")):
        yield f"{path} line {line}", row


def _tsv_rows(path: Path) -> Iterator[Row]:
    lines = iter(read_lines(path))
    number, header = next(lines, (1, ""))
    first = header.split("\t")
    if len(first) == len(_COLUMNS) and first[-1].isdecimal():
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


def _hub_rows(source: str, split: str) -> tuple[Iterator[Row], Iterator[Row], Iterator[Row]]:
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
