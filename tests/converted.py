"""Tiny encoders as folders to convert, and what they give of texts of many lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import save_bare

from effir_integrations import load
from effir_integrations.model.apply import apply
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan

PROMPTS = {"query": "w50 w51 w52 ", "document": "w55 "}
TEXTS = [
    "w1 w2 w3",
    "",
    "w4 " * 60,
    "w9 w7",
    "w8",
    "w5 w6 w7 w8 w9 w10 w11 w12",
    "w3 w2 </s> <pad> w1",
    " ".join(f"w{number}" for number in range(20)),
]
"""Of 1 to more tokens than the limit of 32, some of them special."""
CARD = """---
license: mit
language: [en, de]
---
# The base
"""


def write_encoder(family: str, place: Path, *, pruned: bool = False, **options: Any) -> Path:
    """Write a tiny encoder of two layers with prompts, and return its folder."""
    sizes = {"num_hidden_layers": 2, **options}
    encoder = load(save_bare(family, place / "bare", **sizes), prompts=PROMPTS, device="cpu")
    if pruned:
        plan = PruningPlan(
            base=BaseIdentity.of(encoder[0].model, "tiny"),
            drop_mlp=(0,),
            drop_attention=(1,),
            neurons={1: torch.tensor([0, 3, 4, 17, 40])},
        )
        encoder[0].model = apply(encoder[0].model, plan)
    encoder.save_pretrained(str(place / "encoder"), create_model_card=False)
    (place / "encoder" / "README.md").write_text(CARD)
    return place / "encoder"


def least_cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the smallest cosine of two rows of the same place."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).min())
