"""What a model gives of a data set: vectors, how fast, and how large the model is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_integrations.data.beir import RetrievalData
from effir_integrations.encoder.search_vectors import inner_product_is_similarity
from effir_integrations.encoder.tokenization import token_limit
from effir_integrations.evaluation.models import (
    load_model,
    model_bytes,
    model_name,
    non_embedding_parameters,
)
from effir_integrations.evaluation.speed import encode_timed, query_latency

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from effir_integrations.evaluation.retrieval import Vectors


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How models are loaded and how they encode; each as in `evaluate`."""

    batch_size: int = 32
    max_length: int | None = None
    dtype: str = "auto"
    device: str | None = None
    truncate_dim: int | None = None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A data set as one model encodes it, and what the model is; each as in `Evaluation`."""

    queries: Vectors
    """(queries, dimension), float32."""
    documents: Vectors | None
    """(documents, dimension), float32; None where another model's are searched."""
    model: str
    similarity: str
    """Of the model: cosine, whose vectors are of unit length here, or dot."""
    parameters: int
    non_embedding_parameters: int
    bytes: int
    queries_per_second: float
    documents_per_second: float | None
    query_latency: float
    """Median seconds for one query, one at a time."""
    max_length: int | None
    truncate_dim: int | None
    batch_size: int | None
    dtype: str
    device: str


def encode_data(
    model: SentenceTransformer | str | Path,
    data: RetrievalData,
    settings: Settings,
    *,
    queries_alone: bool = False,
    show_progress: bool = False,
) -> Encoded:
    """Load a model and encode a data set with it, or the queries of one alone.

    Raises:
        ValueError: The similarity is a distance, or the model does not take the maximal length.
    """
    from effir_integrations.encoder.encoder import Encoder

    loaded = load_model(
        model, max_length=settings.max_length, dtype=settings.dtype, device=settings.device
    )
    inner_product_is_similarity(loaded)
    # refuses what the model does not take, before the clock starts
    limit = token_limit(loaded, settings.max_length)
    length = settings.max_length
    _check_dimension(loaded, settings.truncate_dim)
    texts, documents = list(data.queries.values()), list(data.documents.values())
    latency = query_latency(loaded, texts, max_length=length)
    how: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "max_length": length,
        "truncate_dim": settings.truncate_dim,
        "show_progress": show_progress,
    }
    queries, queries_per_second = encode_timed(loaded, texts, kind="query", **how)
    found, documents_per_second = None, None
    if not queries_alone:
        found, documents_per_second = encode_timed(loaded, documents, kind="document", **how)
    return Encoded(
        queries=queries,
        documents=found,
        model=model_name(model),
        similarity=str(loaded.similarity_fn_name),
        parameters=sum(parameter.numel() for parameter in loaded.parameters()),
        non_embedding_parameters=non_embedding_parameters(loaded),
        bytes=model_bytes(loaded, model),
        queries_per_second=queries_per_second,
        documents_per_second=documents_per_second,
        query_latency=latency,
        max_length=limit,
        truncate_dim=settings.truncate_dim or loaded.truncate_dim,
        batch_size=None if isinstance(loaded, Encoder) else settings.batch_size,
        dtype=str(next(loaded.parameters()).dtype).removeprefix("torch."),
        device=str(loaded.device),
    )


def _check_dimension(loaded: SentenceTransformer, truncate_dim: int | None) -> None:
    dimension = loaded.get_embedding_dimension()
    if truncate_dim is not None and dimension is not None and truncate_dim > dimension:
        raise ValueError(
            f"truncate_dim={truncate_dim} is above the {dimension} dimensions of the model; give "
            "fewer, or leave it out"
        )


def check_comparable(queries: Encoded, documents: Encoded) -> None:
    """Refuse queries of one model for documents of another whose vectors are of another kind.

    That both lie in one space is not seen here: the cosine of the queries tells.

    Raises:
        ValueError: Dimension or similarity differ.
    """
    ours, theirs = queries.queries.shape[1], documents.queries.shape[1]
    if ours != theirs:
        raise ValueError(
            f"{queries.model} gives vectors of {ours} dimensions and {documents.model} of "
            f"{theirs}; documents can be searched by a model of their own space alone: name the "
            "model that this one was made of"
        )
    if queries.similarity != documents.similarity:
        raise ValueError(
            f"the similarity of {queries.model} is {queries.similarity!r} and that of "
            f"{documents.model} {documents.similarity!r}; set similarity_fn_name alike in both"
        )
