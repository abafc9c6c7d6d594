"""Measure a model on retrieval data: quality, size and speed."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from effir_integrations.data.beir import RetrievalData, check_drop_same_id, retrieval_data
from effir_integrations.encoder.search_vectors import mean_cosine
from effir_integrations.evaluation.encoded import (
    Encoded,
    Settings,
    check_comparable,
    encode_data,
)
from effir_integrations.evaluation.models import check_model
from effir_integrations.evaluation.retrieval import check_run_ids, rank, score_queries, write_run
from effir_integrations.extras import import_extra
from effir_integrations.progress import is_shown

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured of one model on one data set, and under which settings."""

    model: str
    """Name or folder, as given."""
    data: str
    """Name of the data set."""
    split: str
    """Split of the data set."""
    metrics: dict[str, float]
    """"nDCG@10", "R@100" and "RR@10", each between 0 and 1: the mean over all judged queries."""
    parameters: int | None
    """Parameters of the encoder; it has no language-modelling head. None without an encoder."""
    bytes: int | None
    """Size of all files of the model's folder; of the tensors, for a model given as an object."""
    documents: int
    """Documents searched."""
    queries: int
    """Judged queries that were searched for."""
    documents_per_second: float | None
    """Encoding in batches; in a recipe, indexing as well. None if it was not measured."""
    queries_per_second: float | None
    """Encoding in batches; in a recipe, searching as well. None if it was not measured."""
    query_latency_ms: float | None
    """Median milliseconds to encode one query, one at a time. None if it was not measured."""
    max_length: int | None
    """Tokens a text is cut to; None if the model sets no limit."""
    batch_size: int | None
    """Texts in each batch; None where batches are cut by tokens, as an `Encoder` does."""
    dtype: str
    """Of the weights, such as "float32"; it is the dtype of the arithmetic as well."""
    device: str
    """Where the model ran, such as "cpu" or "cuda:0"."""
    search: str = "exact"
    """What searched the documents: "exact" inner products here, or what a recipe says."""
    non_embedding_parameters: int | None = None
    """Those of the layers: without the tables of tokens and positions, which are only looked up.
    None without an encoder."""
    truncate_dim: int | None = None
    """How many leading numbers of every vector were kept; None for all."""
    drops_same_id: bool = False
    """Whether the document of a query's own id was left out of what it finds."""
    documents_by: str | None = None
    """Name or folder of the model that encoded the documents, where that is another one."""
    query_cosine: float | None = None
    """Mean cosine of the queries' vectors to those of the model that encoded the documents."""
    ndcg_by_query: dict[str, float] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )
    """nDCG@10 of every judged query by its id, to tell a difference from noise."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, those of single queries left out."""
        fields = dataclasses.asdict(self)
        del fields["ndcg_by_query"]
        return fields

    def _repr_html_(self) -> str:
        """Return the table of `effir evaluate`, as a notebook shows it."""
        from effir_integrations.evaluation.tables import evaluations_html

        return evaluations_html([self])


def evaluate(
    model: SentenceTransformer | str | Path,
    data: RetrievalData | str | Path,
    *,
    documents: SentenceTransformer | str | Path | None = None,
    split: str = "test",
    drop_same_id: str | None = None,
    max_length: int | None = None,
    truncate_dim: int | None = None,
    batch_size: int = 32,
    dtype: str = "auto",
    device: str | None = None,
    run_path: Path | None = None,
    show_progress: bool | None = None,
) -> Evaluation:
    """Encode a data set, search it exactly, score the result, and measure size and speed.

    Queries and documents go through `encode_query` and `encode_document`, so the model's prompts
    apply. A score is the inner product of the vectors as the model gives them; a model whose
    similarity is cosine has them normalised first.

    Args:
        model: Folder, hub name or loaded model.
        data: BEIR folder or hub dataset (see `load_beir`), or data that are loaded already.
        documents: Another model that encodes the documents, such as the full one whose index is
            kept; it encodes the queries as well, to be compared with. Default: the same model.
        split: Judgements to use; loaded data have a split of their own.
        drop_same_id: "yes" leaves the document of a query's own id out of what it finds, "no" keeps
            it, "auto" looks at the judgements (see `RetrievalData.drops_same_id`). None is "auto",
            or what loaded data say.
        max_length: Tokens a text is cut to, at most the model's own limit, which is the default.
        truncate_dim: Leading numbers of every vector to keep, for models that were trained for it
            (Matryoshka); None keeps all, or what the model says.
        batch_size: Texts in each batch of a stock model; an `Encoder` cuts by tokens.
        dtype: Of a model given by name: "auto", "float32", "float16" or "bfloat16".
        device: Of a model given by name; by default the best one there is.
        run_path: TREC run to write.
        show_progress: Draw progress bars;
            None: where someone watches, in a notebook or a terminal.

    Returns:
        The figures with the settings that they depend on.

    Raises:
        FileNotFoundError: If data or model are not there.
        ValueError: If an argument, a line of the data or the model's similarity cannot be used, or
            the two models' vectors cannot be compared.
        ImportError: If an optional package is missing.
    """
    show_progress = is_shown(show_progress)
    check_sizes(batch_size=batch_size, max_length=max_length, truncate_dim=truncate_dim)
    check_drop_same_id(drop_same_id or "auto")
    for each in (model, documents):
        if each is not None:
            check_model(each, dtype, device)
    import_extra("ir_measures")
    data = retrieval_data(data, split, drop_same_id, show_progress=show_progress)
    if run_path is not None:
        check_run_ids([*data.queries, *data.documents])
    settings = Settings(
        batch_size=batch_size,
        max_length=max_length,
        dtype=dtype,
        device=device,
        truncate_dim=truncate_dim,
    )
    alone = documents is not None
    ours = encode_data(model, data, settings, queries_alone=alone, show_progress=show_progress)
    theirs = None
    if documents is not None:
        theirs = encode_data(documents, data, settings, show_progress=show_progress)
    return score(ours, data, theirs, run_path=run_path, show_progress=show_progress)


def check_sizes(**sizes: int | None) -> None:
    """Refuse counts below 1.

    Raises:
        ValueError: Names it.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}={size} must be at least 1")


def score(
    queries: Encoded,
    data: RetrievalData,
    documents: Encoded | None = None,
    *,
    run_path: Path | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Search vectors exactly, and score what is found.

    Args:
        queries: What a model gave of the data.
        data: The same data.
        documents: What another model gave of them, whose documents are searched instead.
        run_path: As in `evaluate`.
        show_progress: Draw progress bars.

    Raises:
        ValueError: The two models' vectors cannot be compared.
    """
    searched = queries if documents is None else documents
    check_comparable(queries, searched)
    if searched.documents is None:
        raise ValueError(f"{searched.model} encoded no documents; encode them to search them")
    run = rank(
        list(data.documents),
        searched.documents,
        list(data.queries),
        queries.queries,
        drop_same_id=data.drops_same_id,
        show_progress=show_progress,
    )
    if run_path is not None:
        write_run(run, run_path, tag="_".join(Path(queries.model).name.split()) or "run")
    by_query = score_queries(data.qrels, run)
    return Evaluation(
        model=queries.model,
        data=data.name,
        split=data.split,
        metrics={metric: fmean(values.values()) for metric, values in by_query.items()},
        ndcg_by_query=by_query["nDCG@10"],
        parameters=queries.parameters,
        bytes=queries.bytes,
        documents=len(data.documents),
        queries=len(data.queries),
        documents_per_second=searched.documents_per_second,
        queries_per_second=queries.queries_per_second,
        query_latency_ms=1000 * queries.query_latency,
        max_length=queries.max_length,
        truncate_dim=queries.truncate_dim,
        batch_size=queries.batch_size,
        dtype=queries.dtype,
        device=queries.device,
        non_embedding_parameters=queries.non_embedding_parameters,
        drops_same_id=data.drops_same_id,
        documents_by=None if documents is None else documents.model,
        query_cosine=None if documents is None else mean_cosine(queries.queries, documents.queries),
    )
