"""How often texts need each token."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.text import ROLE_PROMPTS
from ..progress import progress_bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 512
_LEAST = 20
"""Fewer texts tell nothing about those that are held out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """(tokens,) int64 each: how often every token is needed."""

    most: np.ndarray
    """By nine tenths of the texts, or by all where there are few."""
    held_out: np.ndarray
    """By the others; all 0 where there are none."""

    @property
    def all(self) -> np.ndarray:
        """By all texts."""
        return self.most + self.held_out


def count_tokens(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    fronts: Iterable[str],
    *,
    tokens: int,
    seed: int,
    show_progress: bool = False,
) -> Counts:
    """Count, of whole texts, however many tokens the model takes.

    Args:
        tokenizer: A fast one.
        texts: What will be encoded.
        fronts: What stands in front of a text: each text is counted with each of them.
        tokens: Ids go from 0 up to this.
        seed: Says which tenth of the texts is held out.
        show_progress: Draw a bar over the texts.
    """
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    held = set(order[: len(order) // 10]) if len(order) >= _LEAST else set()
    found = np.zeros((2, tokens), np.int64)
    with progress_bar(
        total=len(texts), desc="Counting tokens", unit="text", shown=show_progress
    ) as bar:
        for first in range(0, len(texts), _BATCH):
            places = range(first, min(first + _BATCH, len(texts)))
            for front in fronts:
                whole = [front + texts[place] for place in places]
                for place, encoded in zip(places, ids_of(tokenizer, whole), strict=True):
                    np.add.at(found[int(place in held)], encoded, 1)
            bar.update(len(places))
    return Counts(most=found[0], held_out=found[1])


def fronts_of(prompts: Mapping[str, str | None], default: str | None) -> list[str]:
    """Return what stands in front of texts: nothing, the prompts of the roles, the default one."""
    roles = [next((x for x in names if x in prompts), None) for names in ROLE_PROMPTS.values()]
    named = [prompts.get(name) for name in (*roles, default) if name is not None]
    return list(dict.fromkeys(["", *(text for text in named if text)]))


def ids_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of whole texts, with the tokens around them."""
    backend: Any = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return [encoded.ids for encoded in backend.encode_batch_fast(list(texts))]
