"""A pruned model in a folder, made of a base with a card and prompts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from tiny import WORDS, save_bare

from effir_integrations import export, load
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan

PROMPTS = {"query": "w50 w51 w52 w53 w54 ", "document": "w55 "}
TEXTS = ["w1 w2 w3", "", "w4 " * 60, "w9 w7"]
BASE_CARD = """---
license: mit
language: [en, de]
tags: [onnx]
---
# The base
"""


def plan_for(encoder: Any) -> PruningPlan:
    """Return a plan that takes something of every kind."""
    return PruningPlan(
        base=BaseIdentity.of(encoder[0].model, "tiny"),
        drop_mlp=(1,),
        drop_attention=(2,),
        neurons={3: torch.tensor([0, 3, 4, 17, 40])},
        made_by=({"stage": "drop", "config": {"mlp": 1}},),
    )


def another_plan_for(encoder: Any) -> PruningPlan:
    """Return a plan for what that one left."""
    return PruningPlan(base=BaseIdentity.of(encoder[0].model, "smaller"), drop_mlp=(0,))


def write_pruned(family: str, place: Path) -> Path:
    """Write `bare`, `base` and `pruned` into a folder, and return the last."""
    load(save_bare(family, place / "bare"), prompts=PROMPTS).save_pretrained(str(place / "base"))
    (place / "base" / "README.md").write_text(BASE_CARD)
    base = load(place / "base", device="cpu")
    export(base, plan_for(base), place / "pruned")
    return place / "pruned"


def sentences(count: int = 30, seed: int = 0) -> list[str]:
    """Return texts of a few words, all different."""
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(2, 12))) for _ in range(count)]


def train(encoder: Any, out: Path, **options: Any) -> SentenceTransformerTrainer:
    """Train a few steps with the trainer that everybody uses."""
    pairs = Dataset.from_dict({"anchor": sentences(16, 1), "positive": sentences(16, 2)})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        max_steps=12,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **{"save_strategy": "no", **options},
    )
    trainer = SentenceTransformerTrainer(
        model=encoder,
        args=arguments,
        train_dataset=pairs,
        eval_dataset=pairs,
        loss=MultipleNegativesRankingLoss(encoder),
    )
    trainer.train()
    return trainer
