"""Ask a model what its fast path may assume, by running a few tokens through it.

Configs, attention kinds, remote code and surgery all decide what a model computes, and names tell
little of it. So each way of running is tried once on tokens and compared with the stock modules,
one text at a time; what differs, or fails, is not taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from ..model.families import find
from ..model.hooks import TOKENS, token_ids
from ..model.surgery import dropped_attention
from .inference import Inference, no_mask_needed, single_token_pooling
from .prefix import SHORTEST, Prefix, reuse_bound, steady_length
from .tokenization import token_limit

if TYPE_CHECKING:
    from .encoder import Encoder
logger = logging.getLogger(__name__)

_TOKENS = 10
"""Of the longer text: a batch of two then costs no more than reading the weights."""
_ROUNDING = {torch.float32: (1e-4, 1e-3)}
_HALF_ROUNDING = (0.02, 0.05)
"""Relative difference of two vectors that other batches explain: at least, and at most."""
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """Ways to run a model that were tried and gave the vectors of the stock modules."""

    batches: bool = False
    """Batches of ids and a mask alone; without, all runs the stock way."""
    padded: bool = False
    """Texts of several lengths in a batch, padded on the right; without, a batch has one length."""
    unmasked: bool = False
    """No mask, for no token sees what follows it, and the last token is the text's vector."""
    pooled_alone: bool = False
    """The last block for the pooled token alone."""
    reusable_tokens: int = 0
    """Up to which length of texts the tokens that all begin with can be run once."""


def sees_left_only(model: Any, tokens: int = TOKENS) -> bool:
    """Say whether no token sees what follows it, bit for bit.

    Two runs of one shape differ behind a position; the states before it are compared.

    Args:
        model: A base model, wherever its weights lie.
        tokens: That each run takes.
    """
    first = torch.tensor([token_ids(model, tokens)])
    second = first.clone()
    second[0, tokens // 2 :] = first[0, 0]
    mask = torch.ones_like(first, device=model.device)
    with _quiet(model), torch.inference_mode():
        states = [
            model(input_ids=ids.to(model.device), attention_mask=mask).last_hidden_state
            for ids in (first, second)
        ]
    return torch.equal(*(state[0, : tokens // 2] for state in states))


def attend_both_ways(model: Any) -> None:
    """Take a decoder's causal mask away, in place and in its config.

    Raises:
        ValueError: It is an encoder, which has none, or its attention does not heed the config.
    """
    name = model.config.name_or_path or type(model).__name__
    if not find(model.config).causal:
        raise ValueError(
            f"{name} is an encoder, whose tokens see each other already; leave bidirectional=True "
            "out"
        )
    model.config.is_causal = False
    if sees_left_only(model):
        raise ValueError(
            f"the attention of {name} stays causal, for this version of Transformers does not read "
            f"is_causal in the config of {model.config.model_type}; leave bidirectional=True out"
        )


def model_state(encoder: Encoder) -> tuple[Any, ...]:
    """Return what tells that an encoder's model is as it was when it was tried."""
    model: Any = encoder[0].model
    architecture = find(model.config)
    gone = dropped_attention(model, architecture)
    return id(model), repr(vars(model.config)), gone, single_token_pooling(encoder)


def try_shortcuts(encoder: Encoder) -> Shortcuts:
    """Try each way on two texts of a few tokens, the faster ones on top of what held so far."""
    probe = _Probe(encoder)
    with _quiet(probe.model), torch.inference_mode():
        found = probe.run()
    logger.debug("fast ways of %s: %s", probe.model.config.name_or_path, found)
    return found


class _Probe:
    """Two texts that begin alike, and the vectors that the stock modules give each."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder: Any = encoder
        model: Any = self.encoder[0].model
        self.model = model
        self.device = encoder.device
        self.pooling = single_token_pooling(encoder)
        self.least, self.most = _ROUNDING.get(model.dtype, _HALF_ROUNDING)
        self.longest = min(_TOKENS, steady_length(model.config), token_limit(encoder) or _TOKENS)
        self.expected: dict[tuple[int, ...], torch.Tensor] = {}

    def run(self) -> Shortcuts:
        ids, shorter = texts = self._texts(self.longest)
        found = Shortcuts(batches=True, padded=True)
        if not self._holds(found, texts, [shorter]):  # the one that is padded
            return Shortcuts(batches=self.noise <= self.most)
        if len(shorter) == len(ids):
            return found
        if self.pooling == "lasttoken" and sees_left_only(self.model, self.longest):
            found = self._further(found, texts, unmasked=True)
        if self.pooling is not None:
            found = self._further(found, texts, pooled_alone=True)
        bound = reuse_bound(self.model.config) if found.unmasked else 0
        if min(self.longest, bound) > SHORTEST + 1:
            texts = self._texts(min(self.longest, bound))
            found = self._further(found, texts, reusable_tokens=bound)
        return found

    def _further(self, found: Shortcuts, texts: list[list[int]], **way: Any) -> Shortcuts:
        """Return what was found and one more, if that gives the vectors of the stock modules."""
        tried = replace(found, **way)
        return tried if self._holds(tried, texts, texts) else found

    def _holds(self, tried: Shortcuts, texts: list[list[int]], compared: list[list[int]]) -> bool:
        """Say whether the last texts' vectors are those of the stock modules, but for rounding."""
        apart = self._difference(tried, texts, compared)
        return apart <= self.least or apart <= 3 * self.noise <= 3 * self.most

    @cached_property
    def noise(self) -> float:
        """What batches without padding change, which no other way is asked to undercut."""
        ids = self._texts(self.longest)[0]
        return self._difference(Shortcuts(batches=True), [ids, ids], [ids, ids])

    def _difference(
        self, tried: Shortcuts, texts: list[list[int]], compared: list[list[int]]
    ) -> float:
        """Return the largest difference of a vector, relative to its length; of failures, NaN."""
        try:
            expected = torch.cat([self._stock(tuple(ids)) for ids in compared]).float()
            found = self._vectors(tried, texts).float()[-len(compared) :]
        except _FAILURES:
            return math.nan
        apart = (found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-12)
        return float(apart.max())

    def _texts(self, longest: int) -> list[list[int]]:
        """Return a text and a shorter one, all of whose tokens but the last begin the other."""
        ids = token_ids(self.model, longest)
        shorter = min(longest, max(SHORTEST + 1, longest // 2))
        return [ids, ids[: shorter - 1] + ids[-1:]]

    def _stock(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Return the vector of one text, (1, dimension), by the stock modules."""
        if ids not in self.expected:
            row = torch.tensor([ids], device=self.device)
            features = {"input_ids": row, "attention_mask": torch.ones_like(row)}
            self.expected[ids] = self.encoder(features)["sentence_embedding"]
        return self.expected[ids]

    def _vectors(self, shortcuts: Shortcuts, texts: list[list[int]]) -> torch.Tensor:
        inference = Inference(self.encoder, self.device, shortcuts)
        shared = None
        if shortcuts.reusable_tokens:
            length = len(texts[1]) - 1
            shared = Prefix(self.model, texts[0][:length], self.device)
            texts = [ids[length:] for ids in texts]
        with inference.last_block() as pooled:
            return inference.run(texts, shared, pooled)


@contextmanager
def _quiet(model: Any) -> Iterator[None]:
    """Switch dropout and needless warnings off while the context lasts."""
    training = model.training
    model.eval()
    try:
        with no_mask_needed(model):
            yield
    finally:
        model.train(training)
