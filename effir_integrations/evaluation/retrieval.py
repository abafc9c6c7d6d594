"""Exact search over vectors, the run that comes out of it, and the scores of a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch

from effir_integrations.extras import import_extra
from effir_integrations.files import new_file

from ..progress import progress_bar

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Run = dict[str, dict[str, float]]
"""Query id -> document id -> score, the best document first."""

METRICS = ("nDCG@10", "R@100", "RR@10")
"""What `score_run` returns, by their names in ir-measures."""


_SCORES = 2**26
"""How many scores are held at once: 256 MiB of float32."""


def search(
    document_vectors: Vectors,
    query_vectors: Vectors,
    k: int = 100,
    *,
    block_size: int = 65_536,
    show_progress: bool = False,
) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Find the `k` documents with the largest inner product for each query, exactly.

    The documents pass by block by block, so a memory-mapped array is never copied as a whole.
    Documents with the same score are ordered by position; which of them makes the cut at `k` is up
    to torch, the same ones for the same input.

    Args:
        document_vectors: (documents, dimension), float32.
        query_vectors: (queries, dimension), float32.
        k: Documents a query; all of them if there are fewer.
        block_size: Documents in the index at a time.
        show_progress: Draw a progress bar over the documents.

    Returns:
        Scores and document positions, each (queries, min(k, documents)), the best first.

    Raises:
        ValueError: If shapes, dtypes or `k` do not fit, or a vector holds NaN or infinity.
    """
    _check_vectors(document_vectors, query_vectors, k, block_size)
    count, queries = len(document_vectors), torch.tensor(query_vectors)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    positions = np.empty((len(queries), 0), dtype=np.int64)
    with progress_bar(
        total=count, desc="Searching", unit="document", shown=show_progress
    ) as progress:
        for start in range(0, count, block_size):
            block = np.array(document_vectors[start : start + block_size])
            _check_finite(block, "document", start)
            found, where = _best(queries, block, min(k, len(block)))
            scores = np.concatenate([scores, found], axis=1)
            positions = np.concatenate([positions, where + start], axis=1)
            best = np.lexsort((positions, -scores), axis=1)[:, :k]
            scores = np.take_along_axis(scores, best, axis=1)
            positions = np.take_along_axis(positions, best, axis=1)
            progress.update(len(block))
    return scores, positions


def _best(queries: torch.Tensor, block: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
    # `sentence_transformers.util.semantic_search` does the same and makes a dict of every hit
    documents = torch.from_numpy(block).T
    parts = queries.split(max(1, _SCORES // len(block)))
    found = [torch.topk(part @ documents, k) for part in parts]
    scores = torch.cat([best.values for best in found])
    return scores.numpy(), torch.cat([best.indices for best in found]).numpy()


def _check_vectors(documents: Vectors, queries: Vectors, k: int, block_size: int) -> None:
    for kind, vectors in (("document", documents), ("query", queries)):
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError(
                f"{kind} vectors are {vectors.dtype} of shape {vectors.shape}; expected float32 of "
                "shape (rows, dimension)."
            )
    if documents.shape[1] != queries.shape[1]:
        raise ValueError(
            f"documents have {documents.shape[1]} dimensions, queries {queries.shape[1]}; encode "
            "both with the same model."
        )
    if k < 1 or block_size < 1:
        raise ValueError(f"k={k} and block_size={block_size}; both must be at least 1.")
    _check_finite(queries, "query", 0)


def _check_finite(vectors: Vectors, kind: str, start: int) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{kind} vector {start + int(np.argmin(finite))} holds NaN or infinity; encode in a "
            "wider dtype, such as float32."
        )


def rank(
    document_ids: Sequence[str],
    document_vectors: Vectors,
    query_ids: Sequence[str],
    query_vectors: Vectors,
    *,
    k: int = 100,
    drop_same_id: bool = False,
    show_progress: bool = False,
) -> Run:
    """Search and write the result as a run.

    Documents with the same score are ordered by descending id, as trec_eval does.

    Args:
        document_ids: The id of each row of `document_vectors`, each once.
        document_vectors: (documents, dimension), float32.
        query_ids: The id of each row of `query_vectors`, each once.
        query_vectors: (queries, dimension), float32.
        k: Documents a query.
        drop_same_id: Leave out the document whose id is the query's, see
            `RetrievalData.drops_same_id`.
        show_progress: Draw a progress bar.

    Raises:
        ValueError: If ids and vectors do not fit together.
    """
    for kind, ids, vectors in (
        ("document", document_ids, document_vectors),
        ("query", query_ids, query_vectors),
    ):
        if len(ids) != len(vectors) or len(set(ids)) != len(ids):
            raise ValueError(
                f"{len(ids)} {kind} ids, {len(set(ids))} of them distinct, for {len(vectors)} "
                "vectors; give each row one id of its own."
            )
    # one more than asked for, since the query may find itself
    depth = k + drop_same_id
    scores, positions = search(document_vectors, query_vectors, depth, show_progress=show_progress)
    run: Run = {}
    for query, row_scores, row_positions in zip(
        query_ids, scores.tolist(), positions.tolist(), strict=True
    ):
        found = zip((document_ids[position] for position in row_positions), row_scores, strict=True)
        run[query] = best(query, dict(found), k, drop_same_id=drop_same_id)
    return run


def best(
    query: str, scores: Mapping[str, float], k: int, *, drop_same_id: bool
) -> dict[str, float]:
    """Return the `k` best documents of a query in order, without that of its own id if told so."""
    ordered = _ordered(query, scores)
    kept = [pair for pair in ordered if not (drop_same_id and pair[0] == query)]
    return dict(kept[:k])


def _ordered(query: str, scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Order documents by descending score, then descending id."""
    if not all(map(math.isfinite, scores.values())):
        raise ValueError(f"the run of query {query!r} holds a score that is NaN or infinite.")
    return sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=True)


def score_run(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Score a run: the mean of nDCG@10, R@100 and RR@10 over all judged queries.

    Args:
        qrels: As of `score_queries`.
        run: As of `score_queries`.

    Returns:
        The metric's name, one of `METRICS`, -> value between 0 and 1.

    Raises:
        ValueError: If there are no judgements, or a score is not finite.
    """
    return {name: fmean(values.values()) for name, values in score_queries(qrels, run).items()}


def score_queries(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Score a run query by query, by nDCG@10, R@100 and RR@10.

    A judged query without results counts 0; results of other queries do not count. Ties are broken
    here, as in `rank`: the scorers behind ir-measures break them in opposite ways.

    Args:
        qrels: Query id -> document id -> graded relevance, relevant from 1.
        run: Query id -> document id -> score.

    Returns:
        The metric's name, one of `METRICS`, -> judged query's id -> value between 0 and 1.

    Raises:
        ValueError: If there are no judgements, or a score is not finite.
    """
    if not qrels:
        raise ValueError("no judgements; score needs at least one judged query.")
    ir_measures = import_extra("ir_measures")
    strict = {
        query: {
            document: -float(position)
            for position, (document, _) in enumerate(_ordered(query, run.get(query, {})))
        }
        for query in qrels
    }
    names = {ir_measures.parse_measure(name): name for name in METRICS}
    values = {name: dict.fromkeys(qrels, 0.0) for name in METRICS}
    for found in ir_measures.iter_calc(list(names), qrels, strict):
        values[names[found.measure]][found.query_id] = float(found.value)
    return values


def check_run_ids(ids: Iterable[str]) -> None:
    """Refuse ids that a TREC run, whose columns are separated by spaces, cannot hold.

    Raises:
        ValueError: If an id is empty or holds whitespace.
    """
    for identifier in ids:
        if identifier.split() != [identifier]:
            raise ValueError(
                f"id {identifier!r} is empty or holds whitespace, which a TREC run cannot hold; "
                "rename it, or write no run."
            )


def write_run(run: Mapping[str, Mapping[str, float]], path: str | Path, tag: str) -> None:
    """Write a run in the TREC format: `query Q0 document rank score tag`.

    Documents are ordered as in `rank`. A score that is not below the one before it is lowered to
    the next float32, so that every reader, however it breaks ties, sees the same order. The file
    appears under its name only when it is complete.

    Args:
        run: Query id -> document id -> score.
        path: File to write; its folder is made if need be.
        tag: Name of the run, the last column.

    Raises:
        ValueError: If an id or the tag is empty or holds whitespace, or a score is not finite.
    """
    check_run_ids([tag, *run])
    with (
        new_file(Path(path)) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="\n") as stream,
    ):
        for query, scores in run.items():
            check_run_ids(scores)
            stream.writelines(_run_lines(query, scores, tag))
    logger.info("wrote the results of %d queries to %s", len(run), path)


def _run_lines(query: str, scores: Mapping[str, float], tag: str) -> Iterable[str]:
    ceiling = np.float32(np.inf)
    for number, (document, value) in enumerate(_ordered(query, scores), start=1):
        # trec_eval reads scores as float32, of which nine digits tell any two apart.
        ceiling = min(np.float32(value), np.nextafter(ceiling, np.float32(-np.inf)))
        yield f"{query} Q0 {document} {number} {ceiling:.9g} {tag}\n"
