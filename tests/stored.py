"""Tiny checkpoints on disk, and what tests do to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from effir_integrations.model.families import ARCHITECTURES
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.safetensors_files import SINGLE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SMALL = 20_000


def save(family: str, folder: Path, *, dtype: str = "fp32", sharded: bool = False) -> Path:
    size = SMALL if sharded else "1GB"
    tiny_model(family).to(DTYPES[dtype]).save_pretrained(folder, max_shard_size=size)
    return folder


def save_with_head(family: str, folder: Path, dtype: str = "fp32", **options: Any) -> Path:
    causal = ARCHITECTURES[family].causal
    auto = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    config = tiny_model(family, **options).config
    torch.manual_seed(1)
    auto.from_config(config).to(DTYPES[dtype]).save_pretrained(folder)
    return folder


def cut(base: BaseIdentity, **more: Any) -> PruningPlan:
    kept = torch.arange(0, 48, 3) + torch.tensor([1, 0] * 8)
    return PruningPlan(
        base=base, drop_mlp=(3,), drop_attention=(2,), neurons={1: kept.sort().values}, **more
    )


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    merged: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        content = load_file(file)
        assert not merged.keys() & content.keys()
        merged |= content
    return merged


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: x for name, x in content.items() if x is not None}))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    content = load_file(folder / SINGLE)
    edit(content)
    save_file(content, folder / SINGLE, metadata={"format": "pt"})
