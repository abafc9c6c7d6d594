"""Training examples and encoders small enough to train in a test."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tiny import WORDS, save_bare

from effir_integrations import Encoder, load
from effir_integrations.data.training_examples import TrainingData, load_training


def text(generator: random.Random) -> str:
    """Return a few words that the tiny tokenizer knows."""
    return " ".join(generator.choice(WORDS) for _ in range(generator.randint(3, 9)))


def rows(count: int = 24, negatives: int = 2, scored: bool = False) -> list[dict[str, Any]]:
    """Return training lines, all different."""
    generator, scores = random.Random(0), random.Random(1)
    made = []
    for _ in range(count):
        row: dict[str, Any] = {
            "query": text(generator),
            "pos": [text(generator)],
            "neg": [text(generator) for _ in range(negatives)],
        }
        if scored:
            row["pos_scores"] = [scores.uniform(0, 5)]
            row["neg_scores"] = [scores.uniform(-5, 0) for _ in range(negatives)]
        made.append(row)
    return made


def examples(count: int = 24, negatives: int = 2, scored: bool = False) -> TrainingData:
    """Return them as a trainer takes them."""
    return load_training(rows(count, negatives, scored), negatives=negatives, scored=scored)


def tiny_encoder(family: str, folder: Path, dtype: str = "auto") -> Encoder:
    """Write a tiny base once and load it."""
    if not (folder / family).is_dir():
        save_bare(family, folder / family)
    return load(folder / family, dtype=dtype)
