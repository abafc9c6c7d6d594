"""Write what Pyserini searches, without Pyserini and without Java."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.beir import RetrievalData, retrieval_data
from ...data.vector_files import check_id
from ...encoder.inference import WINDOW
from ...evaluation.retrieval import check_run_ids
from ...extras import import_extra
from ...files import claimed, new_folder
from ...model.peft_folder import with_bases
from ...progress import progress_bar
from ..lazy_encoder import LazyEncoder
from .record import IndexRecord
from .topics import write_qrels, write_topics

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, kw_only=True)
class PyseriniFolder:
    """What `export_to_pyserini` wrote."""

    index: Path
    """For `--index`: a flat Faiss index of inner products, and the ids."""
    encoded_queries: Path | None
    """For `--encoded-queries`."""
    topics: Path | None
    """For `--topics`."""
    qrels: Path | None
    """For `trec_eval`."""
    remove_query: bool
    """Whether a search needs `--remove-query`: the data leave out documents of the query's id."""
    documents: int
    """How many are indexed."""
    dimension: int
    """Numbers a vector."""


def export_to_pyserini(
    model: str | Path | SentenceTransformer | LazyEncoder,
    data: str | Path | RetrievalData | Mapping[str, str],
    out: str | Path,
    *,
    queries: Mapping[str, str] | None = None,
    split: str = "test",
    drop_same_id: str | None = None,
    device: str | None = None,
    precision: str | None = "auto",
    max_length: int | None = None,
    force: bool = False,
    show_progress: bool = False,
) -> PyseriniFolder:
    """Encode documents and queries into a folder that Pyserini searches as it is.

    Stock `pyserini.search.faiss --index OUT --encoded-queries OUT/queries --topics
    OUT/topics.json` then needs neither the model nor this package. The vectors of all documents
    are held in memory, as Pyserini holds them.

    Args:
        model: Folder, hub name, or an encoder; settings of a `LazyEncoder` are its own.
        data: BEIR folder or hub dataset (see `load_beir`), loaded data, or document id -> text.
        out: Folder to write.
        queries: Query id -> text, instead of those of the data.
        split: Of the data: which queries and judgements.
        drop_same_id: As in `evaluate`; what it comes to is in the result, as `remove_query`.
        device: As in torch; None takes an accelerator where there is one.
        precision: As of `load`.
        max_length: Tokens a text is cut to, at most the model's own limit.
        force: Replace `out`.
        show_progress: Draw progress bars.

    Raises:
        FileExistsError: `out` is not empty, and `force` was not given.
        FileNotFoundError: Model or data are not there.
        ImportError: Faiss or pandas is not installed.
        ValueError: There is no document, an id cannot be written, or the name of `out` has a
            meaning for Pyserini.
    """
    out = Path(out)
    if "bpr" in str(out):
        raise ValueError(f"{out}: Pyserini takes paths with 'bpr' for binary vectors; rename it")
    sources = [model] if isinstance(model, str | Path) else []
    with claimed(out, force=force, sources=with_bases(sources)):
        faiss = import_extra("faiss", "pyserini")
        if not isinstance(data, Mapping):
            data = retrieval_data(data, split, drop_same_id, show_progress=show_progress)
        judged = data if isinstance(data, RetrievalData) and queries is None else None
        documents = data.documents if isinstance(data, RetrievalData) else data
        wanted = (judged.queries if judged else {}) if queries is None else queries
        _check_ids(documents, wanted, out)
        pandas = import_extra("pandas", "pyserini") if wanted else None
        encoder = model
        if not isinstance(encoder, LazyEncoder):
            encoder = LazyEncoder(
                encoder, device=device, precision=precision, max_length=max_length
            )
        with new_folder(out, force=force) as folder:
            index = _index(faiss, encoder, documents, show_progress)
            faiss.write_index(index, str(folder / "index"))
            (folder / "docid").write_text("".join(f"{x}\n" for x in documents), encoding="utf-8")
            record = IndexRecord.of(encoder, len(documents))
            record.save(folder)
            if wanted:
                _write_queries(pandas, encoder, wanted, folder / "queries")
                record.save(folder / "queries")
                write_topics(wanted, folder / "topics.json")
            if judged:
                write_qrels(judged.qrels, folder / "qrels.txt")
    return PyseriniFolder(
        index=out,
        encoded_queries=out / "queries" if wanted else None,
        topics=out / "topics.json" if wanted else None,
        qrels=out / "qrels.txt" if judged else None,
        remove_query=judged is not None and judged.drops_same_id,
        documents=len(documents),
        dimension=record.dimension,
    )


def _check_ids(documents: Mapping[str, str], queries: Mapping[str, str], out: Path) -> None:
    if not documents:
        raise ValueError(f"there is no document to write to {out}; give at least one")
    for identifier in documents:
        check_id(identifier, f"documents of {out}", line_break="give it another id")
    # neither can a run that has blanks in its ids be evaluated
    check_run_ids([*documents, *queries])


def _index(
    faiss: Any, encoder: LazyEncoder, documents: Mapping[str, str], show_progress: bool
) -> Any:
    index = faiss.IndexFlatIP(encoder.dimension)
    texts = list(documents.values())
    with progress_bar(
        total=len(texts), desc="Encoding", unit="document", shown=show_progress
    ) as bar:
        for start in range(0, len(texts), WINDOW):
            window = texts[start : start + WINDOW]
            index.add(encoder.embed(window, "document", show_progress=show_progress))
            bar.update(len(window))
    return index


def _write_queries(
    pandas: Any, encoder: LazyEncoder, queries: Mapping[str, str], folder: Path
) -> None:
    """Write vectors of queries in the one format that Pyserini reads, a pickle of pandas.

    It is only ever written here: a pickle of unknown origin runs code when it is read.
    """
    folder.mkdir()
    vectors = encoder.embed(list(queries.values()), "query")
    table = pandas.DataFrame(
        {
            "id": list(queries),
            "text": list(queries.values()),
            "embedding": [np.array(vector) for vector in vectors],
        }
    )
    table.to_pickle(folder / "embedding.pkl")
