"""Carry out a pruning plan on a model in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch

from .families import find, is_stock
from .hooks import TOKENS, masked, token_ids
from .identity import BaseIdentity
from .modeling import model_class, pruned_config
from .offload import is_on_disk
from .plan import PruningPlan
from .stock import Shape, stock_class, stock_config, take_out_blocks, why_not_stock
from .surgery import (
    add_output_bias,
    drop_attention,
    drop_mlp,
    dropped_attention,
    keep_neurons,
    mlp_widths,
    model_layers,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def apply(model: PreTrainedModel, plan: PruningPlan, *, gates: bool = False) -> PreTrainedModel:
    """Remove what the plan names from a base model and return it under a class that reloads.

    That is the family's own where it can hold what is left, else the pruned one. The base is used
    up: its tensors are moved into the result, not copied.

    Args:
        model: The base model that the plan was made for.
        plan: Layers to drop, neurons to keep, and new output projections.
        gates: Put a trainable gate on every MLP neuron that is left (eq. 7).

    Raises:
        ValueError: The plan was made for another base, or `check_code` refuses the model.
    """
    plan.base.check_same(BaseIdentity.of(model))
    check_code(model)
    cut(model, plan)
    _set_outputs(model, plan)
    return _rebuilt(model, plan, gates)


def cut(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Give a base model, on any device, the shape that a plan leaves; new biases are zero."""
    architecture = find(model.config)
    if plan.drop_attention:
        drop_attention(model, architecture, plan.drop_attention)
    if plan.drop_mlp:
        drop_mlp(model, architecture, plan.drop_mlp)
    keep_neurons(model, architecture, plan.neurons)
    if plan.adds_output_bias:
        layers, widths = model_layers(model, architecture), mlp_widths(model, architecture)
        for layer, width in zip(layers, widths, strict=True):
            if width:
                add_output_bias(layer, architecture)


def config_of_cut(
    model: PreTrainedModel, plan: PruningPlan, *, gates: bool = False
) -> PretrainedConfig:
    """Return the config for a base model that `cut` has shaped, of its own class if that can be."""
    architecture, shape = find(model.config), shape_of_cut(model, plan, gates=gates)
    if not why_not_stock(architecture, model.config, shape):
        return stock_config(architecture, model.config, shape)
    return pruned_config(model.config, **asdict(shape))


def shape_of_cut(model: PreTrainedModel, plan: PruningPlan, *, gates: bool = False) -> Shape:
    """Return what is left of a base model that `cut` has shaped."""
    architecture = find(model.config)
    return Shape(
        mlp_widths=mlp_widths(model, architecture),
        dropped_attention=dropped_attention(model, architecture),
        mlp_output_bias=plan.adds_output_bias or getattr(model.config, "mlp_output_bias", False),
        mlp_gates=gates,
    )


@contextmanager
def as_planned(model: PreTrainedModel, plan: PruningPlan, layer: int) -> Iterator[None]:
    """Let one layer compute what is left of it, while the context lasts.

    A narrowed copy takes its place, which costs less than its full width; a layer that was left on
    disk is masked.
    """
    architecture = find(model.config)
    layers = model_layers(model, architecture)
    own = layers[layer]
    if layer not in plan.neurons or is_on_disk(own):
        with masked(model, plan):
            yield
        return
    try:
        layers[layer] = copy.deepcopy(own)
        keep_neurons(model, architecture, {layer: plan.neurons[layer]})
        _set_outputs(model, replace(plan, outputs={layer: plan.outputs.get(layer, {})}))
        with masked(model, replace(plan, neurons={}, outputs={})):
            yield
    finally:
        layers[layer] = own


def least_cosine(dtype: torch.dtype) -> float:
    """Return how alike two vectors of one computation are in a precision, whatever the kernels."""
    return 0.99999 if dtype == torch.float32 else 0.99


def check_config_code(config: PretrainedConfig) -> None:
    """Refuse a config that names modelling code of its own, where that code was not run.

    Raises:
        ValueError: Its `auto_map` names a model.
    """
    named = [name for name in getattr(config, "auto_map", None) or {} if "Model" in name]
    if named and is_stock(config.model_type):
        raise ValueError(
            f"the config of {config.name_or_path} has an auto_map that names code of its own for "
            f"{named[0]}: without it, here and in a pruned model, the {config.model_type} of "
            "Transformers would run, which may let tokens see others, or leave a part out, and so "
            "give other vectors; load it in Python with trust_remote_code=True, so that the two "
            "are compared before anything is pruned, or delete auto_map from its config.json where "
            "the class of Transformers is meant"
        )


def check_code(model: PreTrainedModel) -> None:
    """Refuse a model of other code than its family's class, unless both compute the same.

    Raises:
        ValueError: The states of some tokens differ, or the config names code that is not loaded.
    """
    architecture = find(model.config)
    if type(model) in (stock_class(architecture), model_class(architecture.family)):
        check_config_code(model.config)
        return
    try:
        cosine = _likeness_to_own_class(model)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise _other_code(model, f"fails on it: {' '.join(str(error).split())[:200]}") from error
    if not cosine >= least_cosine(model.dtype):
        raise _other_code(model, f"gives other states on its tensors (cosine down to {cosine:.4f})")


def _other_code(model: PreTrainedModel, what: str) -> ValueError:
    return ValueError(
        f"{type(model).__name__} of {model.config.name_or_path} cannot be pruned: a pruned model "
        f"is the {model.config.model_type} of Transformers, which {what}; choose a model without "
        "code of its own"
    )


@torch.inference_mode()
def _likeness_to_own_class(model: PreTrainedModel) -> float:
    """Return the least cosine of two states, over a text and a shorter one padded on the right."""
    own = _rebuilt(model, PruningPlan(base=BaseIdentity.of(model)), gates=False)
    row = torch.tensor(token_ids(model, TOKENS), device=model.device)
    ids, mask = row.repeat(2, 1), torch.ones(2, len(row), dtype=torch.long, device=row.device)
    mask[1, len(row) // 2 :] = 0
    training = model.training
    try:
        first, second = (
            one.eval()(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()].float()
            for one in (model, own)
        )
    finally:
        model.train(training)
    return float(torch.nn.functional.cosine_similarity(first, second, dim=-1).min())


@torch.no_grad()
def _set_outputs(model: PreTrainedModel, plan: PruningPlan) -> None:
    architecture = find(model.config)
    layers = model_layers(model, architecture)
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


def _rebuilt(model: PreTrainedModel, plan: PruningPlan, gates: bool) -> PreTrainedModel:
    """Move tensors and buffers of a sliced base model into the class that can be reloaded."""
    architecture, config = find(model.config), config_of_cut(model, plan, gates=gates)
    config._attn_implementation = model.config._attn_implementation
    if is_stock(config.model_type):
        take_out_blocks(model, architecture, shape_of_cut(model, plan).kept)
    made = (
        stock_class(architecture)
        if is_stock(config.model_type)
        else model_class(architecture.family)
    )
    with torch.device("meta"):
        rebuilt = made(config)
    state = model.state_dict()
    for name, parameter in rebuilt.named_parameters():
        if name.endswith(".neuron_gate"):
            weight = state[name.replace("neuron_gate", "weight")]
            state[name] = torch.ones(parameter.shape, dtype=torch.float32, device=weight.device)
    rebuilt.load_state_dict(state, assign=True)
    # buffers that are not saved, rotary frequencies for one, are not in the state dict
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(rebuilt.get_submodule(owner), leaf, buffer)
    rebuilt.train(model.training)
    return rebuilt
