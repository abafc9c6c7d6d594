"""Run a base model as if a plan had been carried out, without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .families import find
from .hooks import NewOutput, as_if
from .plan import PruningPlan
from .surgery import model_layers, projection_shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def output_weight(output: Any) -> torch.Tensor:
    """Return the weight of an output projection as (hidden, neurons), whatever its kind."""
    weight = output.weight.detach()
    return weight if isinstance(output, nn.Linear) else weight.T


@contextmanager
def masked(model: PreTrainedModel, plan: PruningPlan) -> Iterator[None]:
    """Make a base model compute what the pruned one will, while the context lasts.

    Output projections of dropped sublayers give zeros; those of narrowed MLPs read the kept neurons
    only, with their new weights where the plan has them.
    """
    architecture = find(model.config)
    outputs = {
        layer: _new_output(
            model_layers(model, architecture)[layer].get_submodule(architecture.mlp_output),
            plan,
            layer,
        )
        for layer in sorted({*plan.neurons, *plan.outputs})
    }
    with as_if(
        model,
        architecture,
        outputs=outputs,
        drop_mlp=plan.drop_mlp,
        drop_attention=plan.drop_attention,
    ):
        yield


def _new_output(output: Any, plan: PruningPlan, layer: int) -> NewOutput:
    neurons = plan.neurons.get(layer)
    if neurons is None:
        neurons = torch.arange(projection_shape(output)[0])
    parts = plan.outputs.get(layer, {})
    if "weight" in parts:
        weight = parts["weight"] if isinstance(output, nn.Linear) else parts["weight"].T
    else:
        weight = output_weight(output).index_select(1, neurons.to(output.weight.device))
    bias = parts.get("bias", output.bias)
    # what is written to disk has the model's dtype, so that is what is compared
    device, dtype = output.weight.device, output.weight.dtype
    return NewOutput(
        neurons=neurons,
        weight=weight.to(device, dtype),
        bias=None if bias is None else bias.detach().to(device, dtype),
    )
