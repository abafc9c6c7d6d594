"""Read retrieval data in the BEIR layout, from a folder or from a hub dataset."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from effir_integrations.data.beir_rows import Row, folder_rows, grade, hub_rows, qrels_rows
from effir_integrations.data.hub import HUB_NAME
from effir_integrations.html_table import html_fields

from ..progress import progress_bar

logger = logging.getLogger(__name__)

DROP_SAME_ID = ("auto", "yes", "no")
"""Choices for the document of a query's own id, see `RetrievalData.drops_same_id`."""


@dataclass(frozen=True, kw_only=True, repr=False)
class RetrievalData:
    """Documents, the judged queries and their judgements.

    Judgements may name documents and queries that are not there: such a document is never found,
    and such a query finds nothing, as in trec_eval.
    """

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
    drop_same_id: str = "auto"
    """One of `DROP_SAME_ID`: whether a query finds the document of its own id."""

    def __post_init__(self) -> None:
        check_drop_same_id(self.drop_same_id)
        if not self.documents:
            raise ValueError(f"{self.name}: no documents; retrieval needs at least one.")
        if not any(self.qrels.values()):
            raise ValueError(f"{self.name}, split {self.split!r}: no judged query.")
        for query in self.queries:
            if query not in self.qrels:
                raise ValueError(f"{self.name}: query {query!r} has no judgement; leave it out.")
        if not self.queries:
            raise ValueError(
                f"{self.name}: none of the {len(self.qrels)} judged queries, such as "
                f"{next(iter(self.qrels))!r}, is among the queries; are the judgements of other "
                "data?"
            )
        if not any(self.documents.keys() & self.qrels[query].keys() for query in self.queries):
            absent = next((document for x in self.queries for document in self.qrels[x]), "")
            raise ValueError(
                f"{self.name}: no document that is judged, such as {absent!r}, is in the corpus; "
                "are the judgements of other data?"
            )

    def __repr__(self) -> str:
        """Return one line without the texts."""
        counts = f"{len(self.documents):,} documents, {len(self.queries):,} queries"
        return f"RetrievalData({self.name}, {self.split}: {counts})"

    def _repr_html_(self) -> str:
        """Return how much there is of everything, as a notebook shows it."""
        sizes = {x: len(getattr(self, x)) for x in ("documents", "queries")}
        judgements = sum(map(len, self.qrels.values()))
        fields = {"name": self.name, "split": self.split, **sizes, "judgements": judgements}
        return html_fields("RetrievalData", fields)

    @cached_property
    def drops_same_id(self) -> bool:
        """Whether the document of a query's own id is left out of what the query finds.

        ArguAna and Quora take their queries from the corpus, where each would find itself. In other
        data ids coincide by chance, as where both sides are numbered from 1. So "auto" leaves such
        documents out unless one of them is judged relevant to its query, and says what it does.
        """
        same = [query for query in self.queries if query in self.documents]
        if self.drop_same_id != "auto" or not same:
            return self.drop_same_id == "yes"
        relevant = sum(self.qrels[query].get(query, 0) > 0 for query in same)
        if relevant:
            what = f"{relevant} of these are judged relevant to it, so they are kept"
        else:
            what = "none of these is judged relevant to it, so they are left out"
        logger.warning(
            "%s: %d of %d queries have the id of a document; %s (--drop-same-id yes or no decides)",
            self.name,
            len(same),
            len(self.queries),
            what,
        )
        return not relevant

    def relevant(self, query: str) -> list[str]:
        """Return the ids of the documents that answer a query and are in the corpus."""
        judged = self.qrels[query].items()
        return [document for document, x in judged if x > 0 and document in self.documents]


def check_drop_same_id(choice: str) -> None:
    """Refuse what is none of `DROP_SAME_ID`.

    Raises:
        ValueError: It is something else.
    """
    if choice not in DROP_SAME_ID:
        raise ValueError(f"drop_same_id={choice!r} is none of {', '.join(DROP_SAME_ID)}.")


def retrieval_data(
    data: RetrievalData | str | Path,
    split: str = "test",
    drop_same_id: str | None = None,
    *,
    show_progress: bool = False,
) -> RetrievalData:
    """Load data that are given by name; hand back loaded ones, with `drop_same_id` if it is given.

    Raises:
        FileNotFoundError: As in `load_beir`.
        ValueError: As in `load_beir`; if `drop_same_id` is none of `DROP_SAME_ID`.
    """
    if not isinstance(data, RetrievalData):
        return load_beir(data, split, drop_same_id or "auto", show_progress=show_progress)
    if drop_same_id in (None, data.drop_same_id):
        return data
    return replace(data, drop_same_id=drop_same_id)


def load_beir(
    source: str | Path,
    split: str = "test",
    drop_same_id: str = "auto",
    *,
    show_progress: bool = False,
) -> RetrievalData:
    """Load retrieval data from a BEIR folder or, where no such folder exists, from the hub.

    A BEIR folder holds `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and
    `qrels/SPLIT.tsv` with the header `query-id corpus-id score`, or with none. A hub dataset, or a
    local copy of one, has the configs `corpus` and `queries`, and its judgements either in the
    config `default` (as mteb/scifact) or in a second dataset named SOURCE-qrels (as BeIR/scifact).
    Judgements of documents or queries that are not there are kept, and counted in a warning.

    Args:
        source: Folder, or OWNER/NAME on the hub.
        split: Which judgements to read.
        drop_same_id: See `RetrievalData.drops_same_id`.
        show_progress: Draw a progress bar over the corpus.

    Raises:
        FileNotFoundError: If nothing readable is at `source`, or the split is not there.
        ValueError: If a line cannot be used: not JSON, no `_id` or text, an id used twice, a
            malformed judgement; if nothing is left; if `drop_same_id` is none of `DROP_SAME_ID`.
    """
    check_drop_same_id(drop_same_id)
    data = _read_data(source, split, show_progress)
    return retrieval_data(data, drop_same_id=drop_same_id)


def _read_data(source: str | Path, split: str, show_progress: bool) -> RetrievalData:
    folder = Path(source)
    if folder.is_dir():
        if any((folder / "qrels").glob("*.tsv")) or not (folder / "README.md").is_file():
            corpus, queries, qrels = folder_rows(folder, split)
            name = folder.resolve().name
            return _assemble(name, split, corpus, queries, qrels, show_progress)
    elif folder.exists():
        raise FileNotFoundError(f"{source} is a file; give the BEIR folder around corpus.jsonl.")
    elif not HUB_NAME.fullmatch(str(source)):
        raise FileNotFoundError(
            f"{source}: no such folder, nor OWNER/NAME of a hub dataset; give a BEIR folder "
            "(corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv) or a name such as mteb/scifact."
        )
    corpus, queries, qrels = hub_rows(str(source), split)
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
    progress = progress_bar(corpus, desc=f"Reading {name}", unit="document", shown=show_progress)
    documents = _texts(progress, "document")
    if not documents:
        raise ValueError(f"{name}: the corpus is empty; it needs at least one document.")
    judgements = _judgements(qrels)
    if not judgements:
        raise ValueError(f"{name}: split {split!r} has no judged query; choose another split.")
    data = RetrievalData(
        name=name,
        split=split,
        documents=documents,
        queries={query: query_texts[query] for query in judgements if query in query_texts},
        qrels=judgements,
    )
    _warn_of_absent(data)
    return data


def _warn_of_absent(data: RetrievalData) -> None:
    absent = sum(document not in data.documents for x in data.qrels.values() for document in x)
    if absent:
        logger.warning(
            "%s, split %r: %d judgements name documents that are not in the corpus; they are kept "
            "and count as not found",
            data.name,
            data.split,
            absent,
        )
    if len(data.queries) < len(data.qrels):
        logger.warning(
            "%s, split %r: %d of %d judged queries are not among the queries; they are kept and "
            "count as finding nothing",
            data.name,
            data.split,
            len(data.qrels) - len(data.queries),
            len(data.qrels),
        )


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read the judgements of a BEIR folder's `qrels/SPLIT.tsv`.

    Returns:
        Query id -> document id -> graded relevance.

    Raises:
        ValueError: If a line cannot be used.
    """
    return _judgements(qrels_rows(path))


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


def _judgements(rows: Iterator[Row]) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for where, row in rows:
        query = _identifier(where, row, "query-id")
        document = _identifier(where, row, "corpus-id")
        relevance = grade(row.get("score"))
        if relevance is None:
            raise ValueError(f"{where}: score {row.get('score')!r} is not an integer.")
        judged = qrels.setdefault(query, {})
        if judged.setdefault(document, relevance) != relevance:
            raise ValueError(
                f"{where}: query {query!r} and document {document!r} were judged "
                f"{judged[document]} before, {relevance} here; keep one of the two lines."
            )
    return qrels
