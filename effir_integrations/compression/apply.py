"""Carry out a pruning plan on a model in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..architectures import find
from ..artifacts import PruningPlan
from ..identity import BaseIdentity
from ..modeling import model_class, pruned_config
from ..surgery import (
    add_output_bias,
    drop_attention,
    drop_mlp,
    dropped_attention,
    keep_neurons,
    mlp_widths,
    model_layers,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def apply(model: PreTrainedModel, plan: PruningPlan, *, gates: bool = False) -> PreTrainedModel:
    """Remove what the plan names from a base model and return it under its pruned class.

    The base is used up: its tensors are moved into the result, not copied.

    Args:
        model: The base model that the plan was made for.
        plan: Layers to drop, neurons to keep, and new output projections.
        gates: Put a trainable gate on every MLP neuron that is left (eq. 7).

    Raises:
        ValueError: The plan was made for another base.
    """
    plan.base.check_same(BaseIdentity.of(model))
    architecture = find(model.config)
    if plan.drop_attention:
        drop_attention(model, architecture, plan.drop_attention)
    if plan.drop_mlp:
        drop_mlp(model, architecture, plan.drop_mlp)
    keep_neurons(model, architecture, plan.neurons)
    _set_outputs(model, plan)
    return _as_pruned_class(model, plan, gates)


@torch.no_grad()
def _set_outputs(model: PreTrainedModel, plan: PruningPlan) -> None:
    architecture = find(model.config)
    layers = model_layers(model, architecture)
    if plan.adds_output_bias:
        for module, width in zip(layers, mlp_widths(model, architecture), strict=True):
            if width:
                add_output_bias(module, architecture)
    for layer, parts in plan.outputs.items():
        output = layers[layer].get_submodule(architecture.mlp_output)
        for part, values in parts.items():
            parameter = getattr(output, part)
            if parameter.shape != values.shape:
                raise ValueError(
                    f"the new MLP output {part} of layer {layer} has shape {tuple(values.shape)}, "
                    f"not {tuple(parameter.shape)}; make the plan again"
                )
            parameter.copy_(values)


def _as_pruned_class(model: PreTrainedModel, plan: PruningPlan, gates: bool) -> PreTrainedModel:
    """Move tensors and buffers of a sliced base model into the class that can be reloaded."""
    architecture = find(model.config)
    config = pruned_config(
        model.config,
        mlp_widths=mlp_widths(model, architecture),
        dropped_attention=dropped_attention(model, architecture),
        mlp_output_bias=plan.adds_output_bias or getattr(model.config, "mlp_output_bias", False),
        mlp_gates=gates,
    )
    config._attn_implementation = model.config._attn_implementation
    with torch.device("meta"):
        pruned = model_class(architecture.family)(config)
    state = model.state_dict()
    for name, parameter in pruned.named_parameters():
        if name.endswith(".neuron_gate"):
            weight = state[name.replace("neuron_gate", "weight")]
            state[name] = torch.ones(parameter.shape, dtype=torch.float32, device=weight.device)
    pruned.load_state_dict(state, assign=True)
    # buffers that are not saved, rotary frequencies for one, are not in the state dict
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(pruned.get_submodule(owner), leaf, buffer)
    pruned.train(model.training)
    return pruned
