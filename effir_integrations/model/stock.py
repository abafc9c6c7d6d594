"""Which pruned shapes are plain smaller models of their family, and how these are written.

Where whole blocks are gone and every MLP left is of one width, the stock class with fewer layers
and a smaller MLP computes the same: then no class of ours is needed to load it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import transformers
from torch import nn

from .families import Architecture
from .surgery import model_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_OURS = ("mlp_widths", "dropped_attention", "mlp_output_bias", "mlp_gates")
_OF_THE_CLASS = ("model_type", "architectures", "transformers_version", "auto_map")
_BY_LAYER = ("layer_types", "no_rope_layers")
"""Settings that hold a value for each layer, and may hold more, in whatever family has them."""
_BORDERS = ("max_window_layers",)
"""Settings that hold the number of the first layer of another kind."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is left of every layer of a pruned model."""

    mlp_widths: Sequence[int]
    """MLP neurons of every layer, 0 where the MLP is gone."""
    dropped_attention: Sequence[int] = ()
    """Layers without attention."""
    mlp_output_bias: bool = False
    """Whether output projections got a bias that their family has not."""
    mlp_gates: bool = False
    """Whether neurons have trainable gates."""

    @property
    def kept(self) -> list[int]:
        """Return the layers that still do something."""
        gone = set(self.dropped_attention)
        return [x for x, width in enumerate(self.mlp_widths) if width or x not in gone]


def why_not_stock(architecture: Architecture, config: PretrainedConfig, shape: Shape) -> str:
    """Say why the family's own class cannot hold a shape; nothing where it can.

    Args:
        architecture: Row of the family.
        config: Of the model before blocks are taken out.
        shape: What is left.
    """
    kept, gone = shape.kept, set(shape.dropped_attention)
    widths = sorted({shape.mlp_widths[layer] for layer in kept} - {0})
    halves = [layer for layer in kept if layer in gone or not shape.mlp_widths[layer]]
    first = next((x for x, layer in enumerate(kept) if x != layer), None)
    if shape.mlp_gates:
        return "its neurons have gates"
    if halves:
        what = "attention" if halves[0] in gone else "MLP"
        return f"layer {halves[0]} lost its {what} alone; drop whole blocks, or narrow MLPs"
    if not kept:
        return "no layer is left"
    if len(widths) > 1:
        return f"its MLPs are of {len(widths)} widths, {widths[0]} to {widths[-1]}; use --uniform"
    if shape.mlp_output_bias:
        return f"its MLP output projections got biases, which {architecture.family} has not"
    if len(kept) == len(shape.mlp_widths):
        return ""
    if architecture.mlp_sum:
        return f"norms of a dropped block stay in {architecture.family}; narrow MLPs instead"
    if architecture.first_layer_differs and kept[0] != 0:
        return f"the first layer of {architecture.family} is unlike the others; keep it"
    by_number = architecture.layer_number_flag
    if first is not None and by_number and getattr(config, by_number, False):
        return f"with {by_number} layers compute by their number; drop the last blocks"
    return ""


def stock_config(
    architecture: Architecture, config: PretrainedConfig, shape: Shape
) -> PretrainedConfig:
    """Return the family's own config of a shape that it can hold; see `why_not_stock`."""
    values = {
        key: value for key, value in config.to_dict().items() if key not in (*_OURS, *_OF_THE_CLASS)
    }
    kept, layers = shape.kept, len(shape.mlp_widths)
    made = getattr(transformers, f"{architecture.class_prefix}Config")(**values)
    # not among the values: names differ by family, and some are stored under two
    made.num_hidden_layers = len(kept)
    setattr(made, architecture.width_setting, shape.mlp_widths[kept[0]])
    for name in _BY_LAYER:
        each = getattr(made, name, None)
        if isinstance(each, (list, tuple)) and len(each) >= layers:
            setattr(made, name, [each[layer] for layer in kept])
    for name in _BORDERS:
        if (border := getattr(made, name, None)) is not None:
            setattr(made, name, sum(layer < border for layer in kept))
    made.architectures = [f"{architecture.class_prefix}Model"]
    return made


def stock_class(architecture: Architecture) -> Any:
    """Return the family's own class, a `PreTrainedModel`."""
    return getattr(transformers, f"{architecture.class_prefix}Model")


def take_out_blocks(model: PreTrainedModel, architecture: Architecture, kept: list[int]) -> None:
    """Leave only some layers in a model, in place, numbered anew."""
    layers = model_layers(model, architecture)
    if len(kept) < len(layers):
        model.set_submodule(architecture.layers, nn.ModuleList(layers[layer] for layer in kept))
