"""Tell whether vectors that somebody kept are those that an encoder gives of their texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .search_vectors import search_vectors

LEAST = 0.99
"""Cosine that bf16 and 8-bit weights leave of the vectors of one model; others are far below."""
_ENOUGH = 8
"""Different texts without which it cannot be told that vectors are near those of their own text."""
_HALF, _WAY = 0.5, 0.25
"""Of vectors of one space most are nearest to their own text, and none is far behind the others."""
_LEAP = 10
"""Times that a distance grows from what a model made itself to what another one made; the vectors
of one model on different texts leave no such gap."""


def check_space(
    encoder: Any,
    vectors: Iterable[Sequence[float] | np.ndarray],
    texts: Iterable[str],
    *,
    least: float = LEAST,
    queries_only: bool = False,
) -> float:
    """Refuse vectors of documents that another model made, or other settings.

    A store knows numbers, not models: of two models with the same dimension it answers from both.
    Take some of its vectors, with the texts that were embedded, before it is searched or extended.
    Directions are compared, not lengths, which many stores change.

    A pruned encoder of queries can search the vectors of the full model, which are near its own.
    With `queries_only` these pass: all of them must be far nearer to the vector that their own text
    gets than to those of other texts. Two models so near to each other, such as two pruned from
    one, are not told apart then; nor is a fine-tuned model from its base. A pair needs none of it:
    what it gives documents is the full model's.

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
        queries_only: Ask whether queries of this encoder can search the vectors, rather than
            whether its documents can be added to them.

    Returns:
        The smallest of these cosines: below `least` if another model of the space made them.

    Raises:
        ValueError: There are no vectors, not as many as texts, their dimension is another, or one
            has a smaller cosine. With `queries_only`: one is of another space, two models made
            them, or there are fewer than eight different texts.
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
    if cosines[worst] < least and queries_only:
        _check_near(np.array(rows), made, np.array(cosines), given, least)
    elif cosines[worst] < least:
        count = sum(cosine < least for cosine in cosines)
        raise ValueError(
            f"{count} of {len(rows)} vectors are not those that this encoder gives of their texts "
            f"(cosine down to {cosines[worst]:.4f}, for {given[worst]!r:.60}; at least {least} is "
            "rounding): another model, prompt or length made them; embed the documents again"
        )
    return cosines[worst]


def _check_near(
    kept: np.ndarray, made: np.ndarray, own: np.ndarray, texts: Sequence[str], least: float
) -> None:
    """Refuse vectors that are not all of one model in the space of an encoder.

    Args:
        kept: Of the store, (texts, dimension).
        made: What their texts get now, likewise.
        own: Cosine of the two of each text, (texts,).
        texts: Whose they are.
        least: Cosine of vectors that the encoder made itself.

    Raises:
        ValueError: They are not, or there are too few texts to tell.
    """
    unlike = np.array([[one != other for other in texts] for one in texts])
    if len(set(texts)) < _ENOUGH:
        raise ValueError(
            f"{len(set(texts))} different texts are too few to tell whether the vectors are near "
            f"to those of their own; sample some, such as 20, and {_ENOUGH} at least"
        )
    cosines = _unit(kept) @ _unit(made).T
    nearest = own >= np.where(unlike, cosines, -1).max(axis=1)
    # one vector may be nearer to a similar text, so what counts of each is how far it is on the
    # way from where vectors of other texts are to where most vectors of the same text are
    others = cosines[unlike].mean()
    way = (own - others) / max(float(np.median(own)) - others, 1e-12)
    strangers = (way <= _WAY) | (~nearest & bool(nearest.mean() < _HALF))
    if strangers.any():
        place = int(np.argmax(strangers))
        raise ValueError(
            f"{strangers.sum()} of {len(texts)} vectors are of another space: no nearer to what "
            f"this encoder gives of their texts than to what it gives of others (cosine "
            f"{own[place]:.4f}, for {texts[place]!r:.60}); search them with the model that made "
            "them or a query encoder made for it (effir pair), or embed the documents again"
        )
    distances = np.maximum(1 - own, (1 - least) / 100)
    made_here = own >= least
    if made_here.any() and distances[~made_here].min() > _LEAP * distances[made_here].max():
        place = int(np.argmin(own))
        raise ValueError(
            f"two models made these vectors: {made_here.sum()} of {len(texts)} are this encoder's "
            f"own, the others are near (cosine down to {own[place]:.4f}, for {texts[place]!r:.60})"
            "; embed all documents by one of them"
        )


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of unit length; of what has no direction, the zero vector."""
    finite = np.nan_to_num(vectors.astype(np.float64), posinf=0.0, neginf=0.0)
    unit: np.ndarray = finite / np.maximum(np.linalg.norm(finite, axis=1, keepdims=True), 1e-12)
    return unit


def _cosine(kept: np.ndarray, made: np.ndarray) -> float:
    lengths = float(np.linalg.norm(kept) * np.linalg.norm(made))
    if not lengths:
        # a text of no token may have the zero vector
        return float(not kept.any() and not made.any())
    cosine = float(kept @ made) / lengths
    return cosine if np.isfinite(cosine) else -1.0
