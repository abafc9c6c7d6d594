"""Leave the layers of a model on disk: each is read when it runs, and forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .families import find

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def device_map(config: PretrainedConfig, device: str) -> dict[str, str]:
    """Return where the parts of a model belong, as `from_pretrained` takes it: layers on disk.

    Args:
        config: Of a family in the table.
        device: Of all that is no layer, and of the layer that runs.
    """
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    path = find(config).layers
    places: dict[str, str] = {}
    owner, prefix = model, ""
    for part in path.split("."):
        places.update({prefix + name: device for name, _ in owner.named_children() if name != part})
        owner, prefix = getattr(owner, part), f"{prefix}{part}."
    return {**places, **{prefix + name: "disk" for name, _ in owner.named_children()}}


def parameter_of(module: Any, name: str) -> torch.Tensor:
    """Return a parameter, read from disk if the model was loaded with its layers there."""
    value: torch.Tensor = getattr(module, name).detach()
    if not value.is_meta or not hasattr(module, "_hf_hook"):
        return value
    hook = module._hf_hook
    stored: torch.Tensor = hook.weights_map[name]
    return stored.to(hook.execution_device, value.dtype)


def is_on_disk(layer: nn.Module) -> bool:
    """Say whether a layer was left on disk."""
    return any(parameter.is_meta for parameter in layer.parameters())
