"""LoRA sits on every projection that is left, and merging it changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import save_bare, tiny_model

from effir_integrations import load
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.model.apply import apply
from effir_integrations.model.families import find
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.training.lora import add_lora, check_no_adapter, merge_lora, projections

TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9", "w10"]


def sliced(family: str, folder: Path, dtype: str = "auto"):
    encoder = load(save_bare(family, folder / family), dtype=dtype)
    model = transformer_model(encoder)
    plan = PruningPlan(
        base=BaseIdentity.of(model),
        drop_mlp=(1,),
        drop_attention=(0,),
        neurons={2: torch.arange(9)},
    )
    encoder[0].model = apply(model, plan)
    return encoder


def randomise(model) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_the_table_names_every_projection_that_is_left(family: str) -> None:
    model = tiny_model(family)
    architecture = find(model.config)
    plan = PruningPlan(base=BaseIdentity.of(model), drop_mlp=(1,), drop_attention=(0,))
    names = projections(apply(model, plan))
    attention = {*architecture.attention_inputs, architecture.attention_output}
    mlp = {*architecture.mlp_inputs, architecture.mlp_output}
    expected = {0: mlp, 1: attention, 2: attention | mlp, 3: attention | mlp}
    assert set(names) == {
        f"{architecture.layers}.{layer}.{path}"
        for layer, paths in expected.items()
        for path in paths
    }


def test_merged_equals_adapter_and_only_the_adapter_trained(family: str, tmp_path: Path) -> None:
    encoder = sliced(family, tmp_path)
    model = transformer_model(encoder)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    bare = encoder.encode(TEXTS, convert_to_tensor=True)
    add_lora(model, rank=4, alpha=8, dropout=0.0, seed=0)
    trained = [name for name, x in model.named_parameters() if x.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert torch.equal(encoder.encode(TEXTS, convert_to_tensor=True), bare)
    randomise(model)
    adapted = encoder.encode(TEXTS, convert_to_tensor=True)
    assert (adapted - bare).abs().max() > 1e-3
    merge_lora(model)
    merged = encoder.encode(TEXTS, convert_to_tensor=True)
    assert (adapted - merged).abs().max() / adapted.abs().max() < 1e-5
    assert model.state_dict().keys() == before.keys()
    check_no_adapter(model)


def test_a_bf16_model_trains_an_fp32_adapter_and_is_rounded_once(tmp_path: Path) -> None:
    encoder = sliced("qwen3", tmp_path, dtype="bf16")
    model = transformer_model(encoder)
    add_lora(model, rank=4, alpha=8, dropout=0.0, seed=0)
    assert {x.dtype for x in model.parameters() if x.requires_grad} == {torch.float32}
    randomise(model)
    name = "layers.2.self_attn.o_proj"
    layer = model.get_submodule(name)
    exact = layer.base_layer.weight.float() + layer.get_delta_weight("default").float()
    merge_lora(model)
    assert torch.equal(model.get_submodule(name).weight, exact.to(torch.bfloat16))


def test_the_same_seed_gives_the_same_adapter(tmp_path: Path) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(states))
        model = transformer_model(sliced("bert", tmp_path))
        add_lora(model, rank=4, alpha=8, dropout=0.0, seed=seed)
        states.append({name: x for name, x in model.named_parameters() if "lora_A" in name})
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_model_with_an_adapter_is_refused(tmp_path: Path) -> None:
    encoder = sliced("bert", tmp_path)
    add_lora(transformer_model(encoder), rank=4, alpha=8, dropout=0.0, seed=0)
    with pytest.raises(ValueError, match="carries an adapter already"):
        add_lora(transformer_model(encoder), rank=4, alpha=8, dropout=0.0, seed=0)
