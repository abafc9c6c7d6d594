"""Tell whether vectors that somebody kept are those that an encoder gives of their texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .search_vectors import search_vectors

LEAST = 0.99
"""Cosine that bf16 and 8-bit weights leave of the vectors of one model; others are far below."""


def check_space(
    encoder: Any,
    vectors: Iterable[Sequence[float] | np.ndarray],
    texts: Iterable[str],
    *,
    least: float = LEAST,
) -> float:
    """Refuse vectors of documents that another model made, or other settings.

    A store knows numbers, not models: of two models with the same dimension it answers from both.
    Take some of its vectors, with the texts that were embedded, before it is searched or extended.
    Directions are compared, not lengths, which many stores change.

    Example:
        ```python
        check_space(embeddings.embed_documents, sampled_vectors, sampled_texts)
        ```

    Args:
        encoder: A `SentenceTransformer`, or what embeds documents in another library.
        vectors: Of the store, (texts, dimension); 20 from all over it tell enough.
        texts: Whose vectors they are, in the same order; as they were embedded, titles and
            metadata included, but without a prompt.
        least: Cosine that every vector must have to the one that its text gets now.

    Returns:
        The smallest of these cosines.

    Raises:
        ValueError: There are no vectors, not as many as texts, their dimension is another, or one
            has a smaller cosine.
    """
    rows, given = [np.asarray(vector, dtype=np.float64) for vector in vectors], list(texts)
    if not rows or len(rows) != len(given):
        raise ValueError(
            f"there are {len(rows)} vectors for {len(given)} texts; sample some vectors, such as "
            "20, and the text of each"
        )
    if hasattr(encoder, "encode_document"):
        made = search_vectors(encoder, given, kind="document")
    else:
        made = np.asarray(encoder(given))
    lengths = sorted({row.size for row in rows})
    if lengths != [made.shape[1]]:
        raise ValueError(
            f"the vectors have {' and '.join(map(str, lengths))} dimensions, but this encoder "
            f"gives {made.shape[1]}; another model or truncate_dim made them: embed again"
        )
    cosines = [_cosine(row, vector) for row, vector in zip(rows, made, strict=True)]
    worst = int(np.argmin(cosines))
    if cosines[worst] < least:
        count = sum(cosine < least for cosine in cosines)
        raise ValueError(
            f"{count} of {len(rows)} vectors are not those that this encoder gives of their texts "
            f"(cosine down to {cosines[worst]:.4f}, for {given[worst]!r:.60}; at least {least} is "
            "rounding): another model, prompt or length made them; embed the documents again"
        )
    return cosines[worst]


def _cosine(kept: np.ndarray, made: np.ndarray) -> float:
    lengths = float(np.linalg.norm(kept) * np.linalg.norm(made))
    if not lengths:
        # a text of no token may have the zero vector
        return float(not kept.any() and not made.any())
    cosine = float(kept @ made) / lengths
    return cosine if np.isfinite(cosine) else -1.0
