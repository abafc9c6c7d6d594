"""A linear map from one encoder's vectors to another's, solved for in closed form on texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .encoder import Encoder

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the ridge, as shares of the vectors' mean variance; held-out texts choose."""
_HELD_OUT = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """A map, and how well it was found to do."""

    weight: torch.Tensor
    """(hidden, dimension), float64."""
    bias: torch.Tensor | None
    """(dimension,), float64."""
    penalty: float
    """That was chosen."""
    cosine: float
    """Mean one to the wanted vectors on texts that chose the penalty and were not fitted to."""


def ridge(states: torch.Tensor, vectors: torch.Tensor, *, bias: bool = True) -> LinearMap:
    """Solve `states @ weight + bias = vectors`, with the penalty that held-out rows like best.

    Without a bias, between vectors of one dimension, what is penalised is how far the map is from
    doing nothing: few texts then leave an encoder that is in the right space already where it is.

    Args:
        states: (texts, hidden), float64.
        vectors: (texts, dimension), float64, of unit length.
        bias: Whether there is one.

    Returns:
        The map of all rows; its cosine is on the last tenth, of the fit to the others.
    """
    kept = len(states) - max(1, round(_HELD_OUT * len(states)))
    part = _Moments.of(states[:kept], vectors[:kept], bias)
    tried = {}
    for penalty in PENALTIES:
        weight, offset = part.solve(penalty)
        given = states[kept:] @ weight + offset
        tried[penalty] = nn.functional.cosine_similarity(given, vectors[kept:]).mean().item()
    best = max(tried, key=tried.__getitem__)
    weight, offset = _Moments.of(states, vectors, bias).solve(best)
    return LinearMap(weight=weight, bias=offset if bias else None, penalty=best, cosine=tried[best])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Moments:
    """What a ridge of any penalty needs of the texts."""

    gram: torch.Tensor
    """(hidden, hidden)."""
    missing: torch.Tensor
    """(hidden, dimension): states times what `start` leaves of the vectors."""
    start: torch.Tensor
    """(hidden, dimension): the map that costs no penalty."""
    mean: torch.Tensor
    """(hidden,): of the states, or zeros."""
    middle: torch.Tensor
    """(dimension,): of the vectors, or zeros."""

    @classmethod
    def of(cls, states: torch.Tensor, vectors: torch.Tensor, bias: bool) -> _Moments:
        hidden, dimension = states.shape[1], vectors.shape[1]
        mean = states.mean(0) if bias else states.new_zeros(hidden)
        middle = vectors.mean(0) if bias else vectors.new_zeros(dimension)
        start = states.new_zeros(hidden, dimension)
        if not bias and hidden == dimension:
            start.fill_diagonal_(1)
        centred = states - mean
        missing = centred.T @ (vectors - middle - centred @ start)
        return cls(gram=centred.T @ centred, missing=missing, start=start, mean=mean, middle=middle)

    def solve(self, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias."""
        gram = self.gram.clone()
        gram.diagonal().add_(penalty * gram.diagonal().mean())
        weight = self.start + torch.linalg.solve(gram, self.missing)
        return weight, self.middle - self.mean @ weight


def procrustes(states: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return the rotation (or reflection) that brings vectors closest to others.

    Args:
        states: (texts, hidden), float64, of unit length.
        vectors: (texts, dimension), float64, of unit length.

    Returns:
        (hidden, dimension), with orthonormal columns, or rows where there are fewer of these.
    """
    left, _, right = torch.linalg.svd(states.T @ vectors, full_matrices=False)
    return left @ right


def bare_modules(encoder: Iterable[Any]) -> list[Any]:
    """Return an encoder's modules without the normalisation at their end."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    kept = list(encoder)
    while isinstance(kept[-1], Normalize):
        kept.pop()
    return kept


def with_map(encoder: Any, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Encoder:
    """Return an encoder with a map behind it, as a Dense, and a normalisation behind that.

    A normalisation at the encoder's own end gives way to it: nothing but a bias can tell.

    Args:
        encoder: Any `SentenceTransformer`; its modules are used, not copied.
        weight: (hidden, dimension).
        bias: (dimension,), where there is one.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    hidden, dimension = weight.shape
    dense = Dense(hidden, dimension, bias is not None, activation_function=nn.Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(weight.T)
        if bias is not None:
            dense.linear.bias.copy_(bias)
    made = Encoder(
        modules=[*bare_modules(encoder), dense.to(encoder.device), Normalize()],
        prompts=encoder.prompts,
        default_prompt_name=encoder.default_prompt_name,
        similarity_fn_name=encoder.similarity_fn_name,
    )
    made._model_card_text = encoder._model_card_text
    return made
