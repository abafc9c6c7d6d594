"""Encode queries and documents so that inner products are the model's similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..data.text import clean_text
from .tokenization import cut_to

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Role = Literal["document", "query"]
"""Which prompt of the model applies."""


def inner_product_is_similarity(model: SentenceTransformer) -> bool:
    """Tell whether plain inner products are the model's similarity, or those of unit vectors.

    Returns:
        True for "dot"; False for "cosine", whose vectors are to be normalised first.

    Raises:
        ValueError: If the model's similarity is a distance, which inner products do not give.
    """
    name = model.similarity_fn_name
    if name not in ("cosine", "dot"):
        raise ValueError(
            f"the model's similarity is {name!r}; exact search scores by inner product, which "
            "serves 'cosine' and 'dot': set similarity_fn_name if one of them is right as well."
        )
    return name == "dot"


def search_vectors(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    kind: Role,
    batch_size: int = 32,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    max_length: int | None = None,
    show_progress: bool = False,
) -> np.ndarray:
    """Encode texts so that inner products are the model's similarity.

    Args:
        model: Its prompt for `kind` applies; vectors are normalised if its similarity is cosine.
        texts: Documents or queries; lone surrogates are replaced.
        kind: "document" or "query".
        batch_size: Texts in each batch of a stock model; an `Encoder` cuts by tokens.
        prompt: Put in front instead of the model's own; empty for none.
        truncate_dim: Leading dimensions to keep; None keeps all, or what the model says.
        max_length: Tokens a text is cut to, at most the model's own limit, which None takes.
        show_progress: Draw the model's progress bar.

    Returns:
        (texts, dimension), float32.

    Raises:
        ValueError: If the model's similarity is a distance, or `max_length` cannot be had.
    """
    plain = inner_product_is_similarity(model)
    method: Any = model.encode_query if kind == "query" else model.encode_document
    vectors = method(
        [clean_text(text) if isinstance(text, str) else text for text in texts],
        batch_size=batch_size,
        show_progress_bar=show_progress,
        convert_to_numpy=True,
        truncate_dim=truncate_dim,
        **({} if prompt is None else {"prompt": prompt}),
        **cut_to(model, max_length),
    )
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if plain:
        return vectors
    # here and in fp32: the stock class normalises in the dtype of the model
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def mean_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean cosine of the rows of two matrices, (rows, dimension) each."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())
