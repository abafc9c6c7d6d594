"""A plan is carried out exactly, and only on the base it was made for."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model

from effir_integrations.model.apply import apply
from effir_integrations.model.families import find
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.surgery import model_layers


def test_a_plan_of_other_weights_is_refused(family):
    plan = PruningPlan(base=BaseIdentity.of(tiny_model(family, seed=1), "first"), drop_mlp=(1,))
    with pytest.raises(ValueError, match="made for first, but the weights of .* differ"):
        apply(tiny_model(family, seed=2), plan)


def test_a_plan_of_other_sizes_is_refused():
    plan = PruningPlan(base=BaseIdentity.of(tiny_model("llama"), "first"), drop_mlp=(1,))
    with pytest.raises(ValueError, match=r"mlp_widths of .* differ \(\(48, 48, 48, 48\) against"):
        apply(tiny_model("llama", intermediate_size=64), plan)


def test_a_plan_of_another_family_is_refused():
    plan = PruningPlan(base=BaseIdentity.of(tiny_model("llama"), "first"), drop_mlp=(1,))
    with pytest.raises(ValueError, match=r"family of .* differ \(llama against mistral\)"):
        apply(tiny_model("mistral"), plan)


def test_new_output_projections_take_their_place(family, ragged_batch):
    model = tiny_model(family)
    architecture = find(model.config)
    kept = torch.tensor([2, 3, 5])
    output = model_layers(model, architecture)[1].get_submodule(architecture.mlp_output)
    weight = torch.randn((32, 3) if isinstance(output, torch.nn.Linear) else (3, 32))
    bias = torch.randn(32)
    base = BaseIdentity.of(model)
    plan = PruningPlan(base=base, neurons={1: kept}, outputs={1: {"weight": weight, "bias": bias}})
    pruned = apply(model, plan)
    new = model_layers(pruned, architecture)[1].get_submodule(architecture.mlp_output)
    assert torch.equal(new.weight, weight)
    assert torch.equal(new.bias, bias)
    assert sum(p.numel() for p in pruned.parameters()) == plan.parameters
    # a family without output bias gets a zero one everywhere, which the config states
    assert pruned.config.mlp_output_bias == (not base.output_bias)


def test_a_pruned_model_can_be_pruned_again(family, ragged_batch):
    model = tiny_model(family)
    first = PruningPlan(base=BaseIdentity.of(model), drop_mlp=(0,), drop_attention=(3,))
    once = apply(model, first)
    neurons = {1: torch.arange(10)}
    second = PruningPlan(base=BaseIdentity.of(once), drop_mlp=(2,), neurons=neurons)
    twice = apply(once, second)
    assert twice.config.mlp_widths == [0, 10, 0, 48]
    assert twice.config.dropped_attention == [3]
    assert sum(p.numel() for p in twice.parameters()) == second.parameters
    with torch.inference_mode():
        assert bool(twice(**ragged_batch)[0].isfinite().all())


def test_an_output_of_the_wrong_shape_is_refused():
    model = tiny_model("bert")
    outputs = {1: {"weight": torch.zeros(32, 7)}}
    plan = PruningPlan(base=BaseIdentity.of(model), outputs=outputs)
    with pytest.raises(ValueError, match=r"layer 1 has shape \(32, 7\), not \(32, 48\)"):
        apply(model, plan)
