"""Run a base model as if a plan had been carried out, without changing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..architectures import find
from ..artifacts import PruningPlan
from ..surgery import model_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def masked(model: PreTrainedModel, plan: PruningPlan) -> Iterator[None]:
    """Make a base model compute what the pruned one will, while the context lasts.

    Output projections of dropped sublayers give zeros; those of narrowed MLPs read the kept neurons
    only, with their new weights where the plan has them. The model's own tensors stay as they are.
    """
    architecture = find(model.config)
    layers = model_layers(model, architecture)
    handles = []
    try:
        for layer in plan.drop_attention:
            output = layers[layer].get_submodule(architecture.attention_output)
            handles.append(output.register_forward_hook(_zeros))
        for layer in plan.drop_mlp:
            output = layers[layer].get_submodule(architecture.mlp_output)
            handles.append(output.register_forward_hook(_zeros))
        for layer in sorted({*plan.neurons, *plan.outputs}):
            output = layers[layer].get_submodule(architecture.mlp_output)
            replaced = _ReplacedOutput(output, plan.neurons.get(layer), plan.outputs.get(layer, {}))
            handles.append(output.register_forward_hook(replaced))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zeros(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(output)


class _ReplacedOutput:
    """Forward hook that computes an output projection anew from the kept neurons."""

    def __init__(
        self, module: Any, kept: torch.Tensor | None, parts: Mapping[str, torch.Tensor]
    ) -> None:
        self.kept = None if kept is None else kept.to(module.weight.device)
        is_linear = isinstance(module, nn.Linear)
        weight = parts.get("weight")
        if weight is None:
            dim = int(is_linear)
            old = module.weight.detach()
            weight = old if self.kept is None else old.index_select(dim, self.kept)
        weight = weight if is_linear else weight.T
        self.weight = weight.to(module.weight)
        bias = parts.get("bias", module.bias)
        self.bias = None if bias is None else bias.detach().to(module.weight)

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        neurons = inputs[0]
        if self.kept is not None:
            neurons = neurons.index_select(-1, self.kept)
        return nn.functional.linear(neurons, self.weight, self.bias)
