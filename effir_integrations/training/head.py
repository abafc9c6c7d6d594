"""A Dense module from an encoder's vectors to those of a teacher, by least squares."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..encoder.encoder import Encoder
from ..encoder.tokenization import cut_to

logger = logging.getLogger(__name__)

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the ridge, as shares of the vectors' mean variance; held-out texts choose."""
_HELD_OUT = 0.1


def with_head(
    encoder: Any,
    teacher: Any,
    ours: Sequence[str],
    theirs: Sequence[str],
    *,
    max_length: int | None = None,
) -> Encoder:
    """Return the encoder with a Dense behind it that gives the teacher's vectors, almost.

    A normalisation at the encoder's end gives way to one behind the Dense.

    Args:
        encoder: Any `SentenceTransformer`; its modules are used, not copied.
        teacher: Whose vectors are learned.
        ours: Texts as the encoder reads them.
        theirs: The same texts as the teacher does.
        max_length: Tokens that both cut them to. Default: to each one's own limit.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    modules = list(encoder)
    while isinstance(modules[-1], Normalize):
        modules.pop()
    kept = {
        "prompts": encoder.prompts,
        "default_prompt_name": encoder.default_prompt_name,
        "similarity_fn_name": "cosine",
    }
    bare = Encoder(modules=modules, **kept)
    states, vectors = (
        model.encode(
            list(texts),
            convert_to_tensor=True,
            show_progress_bar=False,
            prompt="",
            **cut_to(model, max_length),
        )
        .double()
        .cpu()
        for model, texts in ((bare, ours), (teacher, theirs))
    )
    weight, bias, cosine = ridge(states, nn.functional.normalize(vectors, dim=-1))
    logger.info("head: cosine to the teacher %.4f on texts that it was not fitted to", cosine)
    dense = Dense(weight.shape[0], weight.shape[1], activation_function=nn.Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(weight.T)
        dense.linear.bias.copy_(bias)
    return Encoder(modules=[*modules, dense.to(encoder.device), Normalize()], **kept)


def ridge(states: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Solve `states @ weight + bias = vectors`, with the penalty that held-out rows like best.

    Args:
        states: (texts, hidden), float64.
        vectors: (texts, dimension), float64, of unit length.

    Returns:
        (hidden, dimension) and (dimension), of all rows; and the mean cosine on the last tenth,
        which is of the fit to the others.
    """
    kept = len(states) - max(1, round(_HELD_OUT * len(states)))
    tried = {}
    for penalty in PENALTIES:
        weight, bias = _solve(states[:kept], vectors[:kept], penalty)
        given = states[kept:] @ weight + bias
        tried[penalty] = nn.functional.cosine_similarity(given, vectors[kept:]).mean().item()
    best = max(tried, key=tried.__getitem__)
    return *_solve(states, vectors, best), tried[best]


def _solve(
    states: torch.Tensor, vectors: torch.Tensor, penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    mean, middle = states.mean(0), vectors.mean(0)
    centred = states - mean
    gram = centred.T @ centred
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, centred.T @ (vectors - middle))
    return weight, middle - mean @ weight
