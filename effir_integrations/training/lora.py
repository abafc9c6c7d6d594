"""LoRA on the projections that the architecture table names, and its exact merge (A.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..extras import import_extra
from ..model.families import find
from ..model.surgery import model_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_no_adapter(model: PreTrainedModel) -> None:
    """Refuse a model that carries an adapter already.

    Raises:
        ValueError: It does.
    """
    loaded = getattr(model, "_hf_peft_config_loaded", False) or hasattr(model, "peft_config")
    if loaded or any(".lora_A." in name for name, _ in model.named_modules()):
        raise ValueError(
            f"{model.config.name_or_path or type(model).__name__} carries an adapter already; "
            "merge it first (merge_and_unload in peft), or train the model it was made for"
        )


def projections(model: PreTrainedModel) -> list[str]:
    """Return the names of the attention and MLP projections that are left in a model."""
    architecture = find(model.config)
    paths = (
        *architecture.attention_inputs,
        architecture.attention_output,
        *architecture.mlp_inputs,
        architecture.mlp_output,
    )
    names = [
        f"{architecture.layers}.{layer}.{path}"
        for layer in range(len(model_layers(model, architecture)))
        for path in paths
    ]
    modules = dict(model.named_modules())
    return [name for name in names if hasattr(modules.get(name), "weight")]


def add_lora(model: PreTrainedModel, *, rank: int, alpha: float, dropout: float, seed: int) -> None:
    """Put a LoRA adapter on every projection; nothing else trains. Its weights are fp32.

    Raises:
        ImportError: peft is not installed.
        ValueError: The model carries an adapter already.
    """
    check_no_adapter(model)
    peft = import_extra("peft")
    names = projections(model)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=names,
        fan_in_fan_out=not isinstance(model.get_submodule(names[0]), nn.Linear),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merge_lora(model: PreTrainedModel) -> None:
    """Add each adapter to the weight it sits on, in fp32, and take it off; in place.

    Raises:
        RuntimeError: A merged weight is not finite.
    """
    from peft.tuners.lora import LoraLayer

    layers = [(name, module) for name, module in model.named_modules()]
    for name, module in layers:
        if isinstance(module, LoraLayer):
            model.set_submodule(name, _merged(module, name))
    del model.peft_config
    model.requires_grad_(True)


@torch.no_grad()
def _merged(module: Any, name: str) -> nn.Module:
    base = module.get_base_layer()
    for adapter in module.active_adapters:
        delta = module.get_delta_weight(adapter).float()
        merged = base.weight.float() + delta
        if not bool(merged.isfinite().all()):
            raise RuntimeError(
                f"the merged weight of {name} is not finite; train again with a lower learning rate"
            )
        base.weight.data = merged.to(base.weight.dtype)
    return base
