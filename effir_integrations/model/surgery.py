"""Remove sublayers and neurons from a model: in place, and safe on the meta device.

Dropping a sublayer equals setting its output projection (weight and bias) to zero, bitwise, in
every family; keeping some neurons equals zeroing the columns of the others. Post-LN encoders keep
the LayerNorm of a dropped sublayer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from .families import Architecture


class NoSublayer(nn.Module):
    """Stands where a sublayer was and adds an exact zero to the residual stream."""

    def __init__(self, pair: bool = False) -> None:
        """Return (zero, None), as attention modules do, if `pair`."""
        super().__init__()
        self.pair = pair

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return a zero of shape (): it broadcasts, so nothing of the text's size is allocated."""
        hidden = args[0] if args else kwargs["hidden_states"]
        zero = hidden.new_zeros(())
        return (zero, None) if self.pair else zero


class NoAttention(NoSublayer):
    """Stands where an attention was, and is still found as the attention of its layer.

    vLLM runs a class of Transformers only if each layer has a module with its number that looks up
    the attention function to be called, and finds that out by reading the source of `forward`.
    """

    attends = False

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(pair=True)
        self.config = getattr(attention, "config", None)
        self.layer_idx = getattr(attention, "layer_idx", None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return a zero of shape () and None."""
        if self.attends:  # never: it is there to be read
            from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

            function = ALL_ATTENTION_FUNCTIONS["eager"]
            return function(self, *args, **kwargs)
        return super().forward(*args, **kwargs)


def stand_in(layer: Any, replacements: Mapping[str, str]) -> None:
    """Replace modules of one layer, by path, with parameterless stand-ins."""
    for path, kind in replacements.items():
        if kind == "identity":
            made: nn.Module = nn.Identity()
        else:
            made = NoAttention(layer.get_submodule(path)) if kind == "zero_pair" else NoSublayer()
        layer.set_submodule(path, made)


def projection_shape(module: Any) -> tuple[int, int]:
    """Return (inputs, outputs) of a Linear or of a Conv1D, whose weight is transposed."""
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, nn.Linear) else (rows, columns)


def new_projection(
    module: Any, inputs: int, outputs: int, bias: bool, device: torch.device | str
) -> Any:
    """Return a freshly initialised projection of the same kind and dtype with other sizes."""
    with torch.device(device):
        if isinstance(module, nn.Linear):
            return nn.Linear(inputs, outputs, bias=bias, dtype=module.weight.dtype)
        return type(module)(outputs, inputs).to(module.weight.dtype)


def narrow(
    layer: Any, architecture: Architecture, width: int, output_bias: bool, device: Any = None
) -> None:
    """Replace the MLP projections of one layer by new ones for `width` neurons."""
    for path in architecture.mlp_inputs:
        old = layer.get_submodule(path)
        inputs, _ = projection_shape(old)
        outputs = width * architecture.fused_inputs
        where = device or old.weight.device
        new = new_projection(old, inputs, outputs, old.bias is not None, where)
        layer.set_submodule(path, new)
    old = layer.get_submodule(architecture.mlp_output)
    _, outputs = projection_shape(old)
    bias = output_bias or old.bias is not None
    new = new_projection(old, width, outputs, bias, device or old.weight.device)
    layer.set_submodule(architecture.mlp_output, new)


def gate_neurons(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Multiply the activations that enter an output projection by `relu(z)` (eq. 7).

    The product is taken in fp32 and rounded once: in bf16 a gate near 1 would not be felt.
    """
    activations = arguments[0]  # (batch, tokens, neurons)
    gated = activations * torch.relu(module.neuron_gate)
    return gated.to(activations.dtype), *arguments[1:]


def add_gate(output: Any) -> None:
    """Put a trainable gate, fp32 and 1 at the start, on every neuron of an output projection."""
    width, _ = projection_shape(output)
    gate = torch.ones(width, dtype=torch.float32, device=output.weight.device)
    output.register_parameter("neuron_gate", nn.Parameter(gate))
    output.register_forward_pre_hook(gate_neurons)


def remove_gate(output: Any) -> None:
    """Take the gate of an output projection off again."""
    del output.neuron_gate
    for key, hook in list(output._forward_pre_hooks.items()):
        if hook is gate_neurons:
            del output._forward_pre_hooks[key]


def reshape(model: nn.Module, architecture: Architecture, config: Any) -> None:
    """Give a freshly built model the shape that `mlp_widths` and `dropped_attention` name.

    Narrowed MLPs get new weights and `mlp_gates` puts gates on: the checkpoint brings the values.

    Raises:
        ValueError: `mlp_widths` has not one entry a layer.
    """
    layers: Any = model.get_submodule(architecture.layers)
    full = [projection_shape(x.get_submodule(architecture.mlp_output))[0] for x in layers]
    widths = full if config.mlp_widths is None else config.mlp_widths
    if len(widths) != len(layers):
        raise ValueError(
            f"mlp_widths has {len(widths)} entries but the model has {len(layers)} layers; "
            "config.json must hold one width a layer, 0 for a dropped MLP"
        )
    for index, (layer, old, new) in enumerate(zip(layers, full, widths, strict=True)):
        if new == 0:
            stand_in(layer, architecture.without_mlp)
        elif new != old or config.mlp_output_bias:
            narrow(layer, architecture, new, config.mlp_output_bias)
        if new and config.mlp_gates:
            add_gate(layer.get_submodule(architecture.mlp_output))
        if index in (config.dropped_attention or ()):
            stand_in(layer, architecture.without_attention)


def model_layers(model: nn.Module, architecture: Architecture) -> Any:
    """Return the list of layers of a base model."""
    return model.get_submodule(architecture.layers)


def mlp_widths(model: nn.Module, architecture: Architecture) -> list[int]:
    """Return the number of MLP neurons of every layer, 0 where the MLP was dropped."""
    widths = []
    for layer in model_layers(model, architecture):
        output = find_projection(layer, architecture.mlp_output)
        widths.append(projection_shape(output)[0] if output is not None else 0)
    return widths


def dropped_attention(model: nn.Module, architecture: Architecture) -> list[int]:
    """Return the layers whose attention was dropped."""
    layers, path = model_layers(model, architecture), architecture.attention_output
    return [layer for layer, x in enumerate(layers) if find_projection(x, path) is None]


def find_projection(layer: Any, path: str) -> Any:
    """Return a projection, or None where a stand-in took its place."""
    try:
        module = layer.get_submodule(path)
    except AttributeError:
        return None
    return None if isinstance(module, NoSublayer) else module


def drop_mlp(model: nn.Module, architecture: Architecture, layers: Iterable[int]) -> None:
    """Remove the MLP sublayers of `layers` from a base model.

    Raises:
        ValueError: A layer is out of range, or its MLP was dropped before.
    """
    widths = mlp_widths(model, architecture)
    present = [layer for layer, width in enumerate(widths) if width]
    chosen = check_layers(layers, present, len(widths), "MLP")
    for layer in chosen:
        stand_in(model_layers(model, architecture)[layer], architecture.without_mlp)


def drop_attention(model: nn.Module, architecture: Architecture, layers: Iterable[int]) -> None:
    """Remove the attention sublayers of `layers` from a base model.

    Raises:
        ValueError: A layer is out of range or dropped before, or no attention would be left.
    """
    count = len(model_layers(model, architecture))
    gone = set(dropped_attention(model, architecture))
    present = [layer for layer in range(count) if layer not in gone]
    chosen = check_layers(layers, present, count, "attention")
    check_some_attention_left(present, chosen)
    for layer in chosen:
        stand_in(model_layers(model, architecture)[layer], architecture.without_attention)


def check_layers(layers: Iterable[int], present: list[int], count: int, what: str) -> list[int]:
    """Return the layers sorted, or say which one has no such sublayer to drop."""
    chosen = sorted(layers)
    for position, layer in enumerate(chosen):
        if not 0 <= layer < count:
            reason = f"is out of range: the model has {count} layers"
        elif layer not in present:
            reason = f"has no {what}: it was dropped before"
        elif position and chosen[position - 1] == layer:
            reason = f"is named twice for {what}"
        else:
            continue
        raise ValueError(f"layer {layer} {reason}; choose from {present}")
    return chosen


def check_some_attention_left(present: list[int], dropped: Iterable[int]) -> None:
    """Refuse to drop the last attention: tokens would no longer see each other."""
    if not set(present) - set(dropped):
        raise ValueError(
            f"dropping the attention of layers {present} would leave none, and no token would see "
            "another; keep at least one"
        )


def keep_neurons(
    model: nn.Module, architecture: Architecture, kept: Mapping[int, torch.Tensor]
) -> None:
    """Slice the MLPs of some layers to the neurons that are kept.

    Args:
        model: A base model, changed in place.
        architecture: Its row in the table.
        kept: layer -> indices of the kept neurons (int64, ascending), in the MLP's present order.

    Raises:
        ValueError: A layer has no MLP, or an index is out of range, repeated or unsorted.
    """
    widths = mlp_widths(model, architecture)
    check_layers(kept, [x for x, width in enumerate(widths) if width], len(widths), "MLP")
    for layer, neurons in kept.items():
        _check_neurons(layer, neurons, widths[layer])
        _slice_layer(model_layers(model, architecture)[layer], architecture, neurons)


def _check_neurons(layer: int, neurons: torch.Tensor, width: int) -> None:
    ascending = bool((neurons[1:] > neurons[:-1]).all())
    if not len(neurons) or not ascending or int(neurons[0]) < 0 or int(neurons[-1]) >= width:
        raise ValueError(
            f"kept neurons of layer {layer} must be ascending indices below its {width} neurons, "
            f"at least one; got {len(neurons)} indices; make the plan again for this model"
        )


@torch.no_grad()
def _slice_layer(layer: Any, architecture: Architecture, neurons: torch.Tensor) -> None:
    output = layer.get_submodule(architecture.mlp_output)
    width, _ = projection_shape(output)
    before = {
        path: layer.get_submodule(path)
        for path in (*architecture.mlp_inputs, architecture.mlp_output)
    }
    narrow(layer, architecture, len(neurons), output_bias=False, device="meta")
    for path, old in before.items():
        new = layer.get_submodule(path)
        is_output = path == architecture.mlp_output
        blocks = 1 if is_output else architecture.fused_inputs
        kept = torch.cat([neurons + block * width for block in range(blocks)])
        kept = kept.to(old.weight.device)
        neuron_dim = int(is_output == isinstance(old, nn.Linear))
        new.weight = _like(old.weight, old.weight.index_select(neuron_dim, kept))
        if old.bias is not None:
            new.bias = _like(old.bias, old.bias if is_output else old.bias.index_select(0, kept))


def _like(old: nn.Parameter, values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone(), requires_grad=old.requires_grad)


def add_output_bias(layer: Any, architecture: Architecture) -> None:
    """Give a bias-free MLP output projection a zero bias; one that has a bias is left alone."""
    output = layer.get_submodule(architecture.mlp_output)
    if output.bias is None:
        zeros = output.weight.new_zeros(projection_shape(output)[1])
        output.bias = nn.Parameter(zeros)


def widen(model: nn.Module) -> dict[str, torch.dtype]:
    """Turn all parameters into fp32, to be trained, and return what they were.

    Buffers stay as they are: rotary frequencies are fp32 in a half-precision model, and a round
    trip of `model.to` would round them.
    """
    dtypes = {}
    for name, parameter in model.named_parameters():
        dtypes[name] = parameter.dtype
        parameter.data = parameter.data.float()
    return dtypes


def restore_dtypes(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give the parameters the dtypes back that `widen` returned."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters of a base model, which has no LM head; ties count once."""
    return sum(parameter.numel() for parameter in model.parameters())
