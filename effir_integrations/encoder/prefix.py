"""Run the tokens that all texts begin with once, and let every text attend to their keys."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

SHORTEST = 4
"""Tokens that texts must share before running them once pays for the cache."""


def shared_tokens(ids: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all texts begin with, leaving each at least one of its own.

    Tokens, not characters: a tokenizer may merge the end of an instruction with what follows.

    Args:
        ids: Token ids of each text.
    """
    in_order = sorted(map(list, ids))
    first, last = in_order[0], in_order[-1]  # what the ends share, all share
    shared = next(
        (place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(last)),
    )
    return min(shared, min(map(len, ids)) - 1)


def reuse_bound(config: Any) -> int:
    """Return the longest text for which keys of a prefix could be reused, by the config alone.

    No longer than the shortest window of any attention, for a cache forgets what leaves it, nor
    than the length beyond which frequencies depend on the length; 0 for kinds of attention that
    are neither full nor sliding.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not kinds <= {"full_attention", "sliding_attention"}:
        return 0
    window: Any = getattr(config, "sliding_window", None)  # None where it is switched off
    return min(sys.maxsize if window is None else int(window), steady_length(config))


def steady_length(config: Any) -> int:
    """Return up to which length of a text rotary frequencies do not depend on that length."""
    found = getattr(config, "rope_parameters", None) or {}
    by_kind = [found] if "rope_type" in found else [x for x in found.values() if x]
    lengths = [
        part.get("original_max_position_embeddings") or config.max_position_embeddings
        for part in by_kind
        if part["rope_type"] in ("dynamic", "longrope")
    ]
    return min(lengths, default=sys.maxsize)


def depends_on_length(model: Any) -> bool:
    """Say whether a model's rotary frequencies go by the longest text of a batch."""
    return steady_length(getattr(model, "config", None)) < sys.maxsize


@torch.no_grad()
def forget_lengths(model: Any) -> None:
    """Run one token: the frequencies of the longest text so far stay until a short one has run."""
    model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))


class Prefix:
    """The keys and values of the tokens that all texts of a window begin with."""

    def __init__(self, model: Any, tokens: Sequence[int], device: torch.device) -> None:
        """Run the tokens.

        Args:
            model: A model whose `Shortcuts` allow it.
            tokens: Their ids.
            device: Where the model lies.
        """
        from transformers import DynamicCache

        self.length = len(tokens)
        self.cache = DynamicCache(config=model.config)
        ids = torch.tensor([list(tokens)], device=device)
        model(input_ids=ids, use_cache=True, past_key_values=self.cache)

    def inputs(self, rows: int, tokens: int, device: torch.device) -> dict[str, Any]:
        """Return what a batch of continuations needs beside its ids.

        Args:
            rows: Texts of the batch.
            tokens: Padded tokens of each, without the prefix.
            device: Where the model lies.
        """
        cache: Any = deepcopy(self.cache)  # a run appends to it
        for layer in cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys.expand(rows, -1, -1, -1)
                layer.values = layer.values.expand(rows, -1, -1, -1)
        positions = torch.arange(self.length, self.length + tokens, device=device)
        return {
            "past_key_values": cache,
            "position_ids": positions.expand(rows, -1),
            "use_cache": True,
        }
