"""Is a pruned model good enough on a corpus? How far it agrees with the full one, unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.calibration import load_calibration
from ..encoder.search_vectors import inner_product_is_similarity, mean_cosine, search_vectors
from .agreement import DEPTH, TOP, Agreement, Places, agreement, overlaps, reciprocal_ranks
from .known_items import known_items, read_records
from .models import check_model, load_model, model_name
from .retrieval import Vectors, search

if TYPE_CHECKING:
    from rich.table import Table
    from sentence_transformers import SentenceTransformer

LEAST_DOCUMENTS, LEAST_QUERIES = 100, 20
"""With fewer, what is measured is chance."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A query whose result changes much."""

    query: str
    overlap: float
    """Share of the ten best documents that stays."""
    full: str
    """What the full model finds first."""
    small: str
    """What the pruned one does."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How far a pruned model agrees with the full one."""

    full: str
    small: str
    documents: int
    queries: int
    query_source: str
    known_item_full: float | None
    """Mean reciprocal rank of the known document among ten, by the full model alone."""
    query_cosine: float | None
    """Mean cosine of both models' vectors of a query; None where dimensions differ."""
    document_cosine: float | None
    alone: Agreement
    """The pruned model's queries on its own documents."""
    kept: Agreement | None
    """The pruned model's queries on the full model's documents; None where dimensions differ."""
    changed: tuple[Changed, ...]
    """The queries of which the pruned model alone changes most."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        nested = {
            "alone": self.alone.to_json(),
            "kept": None if self.kept is None else self.kept.to_json(),
            "changed": [vars(each) for each in self.changed],
        }
        return {**vars(self), **nested}


def check(
    full: SentenceTransformer | str | Path,
    small: SentenceTransformer | str | Path,
    texts: str | Path | Sequence[str],
    *,
    queries: str | Path | Sequence[str] | None = None,
    documents: int = 5_000,
    query_count: int = 300,
    max_length: int | None = None,
    dtype: str = "auto",
    device: str | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Fidelity:
    """Search a corpus by the full and by a pruned model, and compare what they find.

    No judgement is needed: what the full model finds is what is to be found.

    Args:
        full: The model that is in use.
        small: What is to replace it.
        texts: Corpus: a BEIR folder, a .jsonl with `text` and perhaps `title`, a .txt, or texts.
        queries: A .jsonl or .txt file, or texts. Default: known items of the corpus; a title asks
            for what stands under it, else a first sentence for the rest.
        documents: At most so many, drawn evenly.
        query_count: At most so many.
        max_length: Tokens a text is cut to, at most each model's own limit, which is the default.
        dtype: Of models given by name.
        device: Of models given by name.
        seed: Of both draws.
        show_progress: Draw progress bars.

    Raises:
        FileNotFoundError: A model or a file is not there.
        ValueError: There are too few documents or queries to judge by.
    """
    for model in (full, small):
        check_model(model, dtype, device)
    records = read_records(texts, documents, seed)
    if len(records) < LEAST_DOCUMENTS:
        raise ValueError(
            f"{len(records)} documents are too few to judge by; give at least {LEAST_DOCUMENTS}, "
            "better thousands"
        )
    asked, answers, found, source = _asked(records, queries, query_count, seed)
    if len(asked) < LEAST_QUERIES:
        raise ValueError(
            f"{len(asked)} queries are too few to judge by; at least {LEAST_QUERIES} are needed: "
            "give --queries, or a corpus with titles or with texts of several sentences"
        )

    def vectors(model: SentenceTransformer | str | Path) -> tuple[Vectors, Vectors]:
        loaded = load_model(model, max_length=max_length, dtype=dtype, device=device)
        inner_product_is_similarity(loaded)
        how: dict[str, Any] = {"max_length": max_length, "show_progress": show_progress}
        return (
            search_vectors(loaded, asked, kind="query", **how),
            search_vectors(loaded, found, kind="document", **how),
        )

    theirs, ours = vectors(full), vectors(small)
    reference, alone = _search(*theirs), _search(*ours)
    known = None if answers is None else float(reciprocal_ranks(reference[:, :TOP], answers).mean())
    comparable = theirs[0].shape[1] == ours[0].shape[1]
    kept = agreement(_search(ours[0], theirs[1]), reference, answers) if comparable else None
    return Fidelity(
        full=model_name(full),
        small=model_name(small),
        documents=len(found),
        queries=len(asked),
        query_source=source,
        known_item_full=known,
        query_cosine=mean_cosine(theirs[0], ours[0]) if comparable else None,
        document_cosine=mean_cosine(theirs[1], ours[1]) if comparable else None,
        alone=agreement(alone, reference, answers),
        kept=kept,
        changed=_changed(asked, found, reference, alone),
    )


def _asked(
    records: Any, queries: str | Path | Sequence[str] | None, count: int, seed: int
) -> tuple[list[str], list[int] | None, list[str], str]:
    """Return queries, what they are to find where that is known, documents, and where from."""
    if queries is None:
        made = known_items(records, count, seed)
        return made.queries, made.answers, made.documents, made.source
    own = load_calibration(queries, limit=count, seed=seed)
    return list(own.texts), None, [record.whole for record in records], own.source


def _search(queries: Vectors, documents: Vectors) -> Places:
    return search(documents, queries, min(DEPTH, len(documents)))[1]


def _changed(
    asked: Sequence[str], documents: Sequence[str], full: Places, small: Places
) -> tuple[Changed, ...]:
    shared = overlaps(small[:, :TOP], full[:, :TOP])
    return tuple(
        Changed(
            query=asked[place],
            overlap=float(shared[place]),
            full=documents[full[place, 0]],
            small=documents[small[place, 0]],
        )
        for place in np.argsort(shared, kind="stable")[:_SHOWN]
    )


def fidelity_table(found: Fidelity) -> Table:
    """Lay out what was found, and the queries whose result changes most."""
    from rich.markup import escape
    from rich.table import Table

    cosines = [
        f"{name} {value:.4f}"
        for name, value in (("queries", found.query_cosine), ("documents", found.document_cosine))
        if value is not None
    ]
    table = Table(
        title=escape(f"{found.small} against {found.full}"),
        caption=escape(
            f"{found.documents:,} documents, {found.queries} queries ({found.query_source})"
            + (f"; mean cosine of {', of '.join(cosines)}" if cosines else "")
        ),
    )
    for column in ("", "overlap of the 10 best", "worst tenth", "rank-biased", "known-item MRR"):
        table.add_column(column, overflow="fold")
    if found.known_item_full is not None:
        table.add_row("full", "", "", "", f"{found.known_item_full:.4f}")
    for name, each in (("pruned", found.alone), ("pruned, on the full index", found.kept)):
        if each is not None:
            table.add_row(
                name,
                _with_interval(each.overlap, each.overlap_interval),
                f"{each.overlap_worst:.3f}",
                _with_interval(each.rank_biased, each.rank_biased_interval),
                "" if each.known_item is None else f"{each.known_item:.4f}",
            )
    table.add_section()
    for query in found.changed:
        table.add_row("changes most", f"{query.overlap:.1f}", "", escape(f"{query.query:.60}"), "")
    return table


def _with_interval(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"
