"""Is a pruned model good enough on a corpus? How far it agrees with the full one, unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoder.search_vectors import inner_product_is_similarity, mean_cosine, search_vectors
from ..html_table import html_table
from ..progress import is_shown
from .agreement import DEPTH, TOP, Agreement, Places, agreement, overlaps, reciprocal_ranks
from .known_items import Questions, questions
from .models import check_model, load_model, model_name
from .retrieval import Vectors, search

if TYPE_CHECKING:
    from rich.table import Table
    from sentence_transformers import SentenceTransformer

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

    def _repr_html_(self) -> str:
        """Return the table of `effir check`, as a notebook shows it."""
        return html_table(fidelity_table(self))


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
    show_progress: bool | None = None,
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
        show_progress: Draw progress bars;
            None: where someone watches, in a notebook or a terminal.

    Raises:
        FileNotFoundError: A model or a file is not there.
        ValueError: There are too few documents or queries to judge by.
    """
    show_progress = is_shown(show_progress)
    for model in (full, small):
        check_model(model, dtype, device)
    asked = questions(texts, queries, documents=documents, query_count=query_count, seed=seed)

    def answers(model: SentenceTransformer | str | Path) -> Answers:
        loaded = load_model(model, max_length=max_length, dtype=dtype, device=device)
        return answer(loaded, asked, max_length=max_length, show_progress=show_progress)

    return fidelity(
        asked, answers(full), answers(small), full=model_name(full), small=model_name(small)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Questions as a model encodes them."""

    queries: Vectors
    """(queries, dimension), float32."""
    documents: Vectors
    """(documents, dimension), float32."""


def answer(
    model: SentenceTransformer,
    asked: Questions,
    *,
    max_length: int | None = None,
    show_progress: bool = False,
) -> Answers:
    """Encode queries and documents with a loaded model.

    Raises:
        ValueError: The model's similarity is a distance.
    """
    inner_product_is_similarity(model)
    how: dict[str, Any] = {"max_length": max_length, "show_progress": show_progress}
    return Answers(
        queries=search_vectors(model, asked.queries, kind="query", **how),
        documents=search_vectors(model, asked.documents, kind="document", **how),
    )


def fidelity(
    asked: Questions, theirs: Answers, ours: Answers, *, full: str, small: str
) -> Fidelity:
    """Search with the vectors of the full and of a pruned model, and compare what they find."""
    reference = _search(theirs.queries, theirs.documents)
    alone = _search(ours.queries, ours.documents)
    known, kept = asked.answers, None
    comparable = theirs.queries.shape[1] == ours.queries.shape[1]
    if comparable:
        kept = agreement(_search(ours.queries, theirs.documents), reference, known)
    return Fidelity(
        full=full,
        small=small,
        documents=len(asked.documents),
        queries=len(asked.queries),
        query_source=asked.source,
        known_item_full=None
        if known is None
        else float(reciprocal_ranks(reference[:, :TOP], known).mean()),
        query_cosine=mean_cosine(theirs.queries, ours.queries) if comparable else None,
        document_cosine=mean_cosine(theirs.documents, ours.documents) if comparable else None,
        alone=agreement(alone, reference, known),
        kept=kept,
        changed=_changed(asked.queries, asked.documents, reference, alone),
    )


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
