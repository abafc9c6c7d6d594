"""Folders that hold an adapter on a tiny base."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import transformers
from pruned_folder import write_pruned

from effir_integrations import load

peft = pytest.importorskip("peft")
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"], "bert": ["query", "dense"]}


def write_adapter(base, out, *, kind=transformers.AutoModel, seed=0, **options):
    """Train nothing, but save an adapter that does something, and return it on its base."""
    family = json.loads((base / "config.json").read_text())["model_type"].removeprefix("effir_")
    options = {"target_modules": TARGETS[family], "fan_in_fan_out": family == "gpt2", **options}
    torch.manual_seed(seed)
    model = peft.get_peft_model(kind.from_pretrained(base), peft.LoraConfig(r=4, **options))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape)
            assert any(part in name for part in ("lora", "modules_to_save", "token_adapter"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(out)
    return model.eval()


def edit(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def write_stored(family, place):
    """Write a Sentence Transformers folder whose transformer is an adapter on a pruned base."""
    encoder = load(write_pruned(family, place), device="cpu")
    config = peft.LoraConfig(target_modules=["q_proj", "query"], init_lora_weights=False)
    encoder.add_adapter(config)
    encoder.save_pretrained(str(place / "adapter"))
    return place / "adapter"
