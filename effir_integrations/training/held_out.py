"""How near a student is to its teacher on texts that it does not train on."""

from __future__ import annotations

import random
from typing import Any

import torch
from sentence_transformers.util import batch_to_device
from torch.nn import functional

from ..encoder.tokenization import cut_to
from .config import HELD_OUT, DistillConfig

HELD_OUT_TEXTS = 128
"""At most so many texts are held out,"""
_SHARE = 20
"""and at most one of so many."""


def held_out_places(texts: int, batch_size: int, seed: int) -> list[int]:
    """Return which texts are held out: none where too few would be left to fill a batch.

    Args:
        texts: How many there are.
        batch_size: Of the training.
        seed: Of the draw.
    """
    count = max(0, min(HELD_OUT_TEXTS, texts // _SHARE, texts - batch_size))
    return sorted(random.Random(seed).sample(range(texts), count))


class HeldOut:
    """Texts with their teacher's vectors, to compare a student with while it trains."""

    def __init__(self, encoder: Any, dataset: Any, config: DistillConfig) -> None:
        """Take the texts.

        Args:
            encoder: The student; it may carry an adapter.
            dataset: Columns `text`, as the student reads it, and `label`, the teacher's vector.
            config: How it trains.
        """
        self.encoder = encoder
        self.dataset = dataset
        self.config = config

    def __call__(self) -> dict[str, float]:
        """Return the mean cosine of the student's vectors to the teacher's, by its name."""
        self.encoder.eval()
        cut, found = cut_to(self.encoder, self.config.max_length), []
        # no inference mode: what a model caches in a forward pass is used again in training
        with torch.no_grad():
            for rows in self.dataset.iter(batch_size=self.config.batch_size):
                features = self.encoder.preprocess(rows["text"], **cut)
                features = batch_to_device(features, self.encoder.device)
                ours = self.encoder(features)["sentence_embedding"].float().cpu()
                found.append(functional.cosine_similarity(ours, torch.tensor(rows["label"])))
        return {HELD_OUT: torch.cat(found).mean().item()}
