"""vLLM's own classes of some families, without what a config of ours leaves out.

A class calls the stock `__init__` with MLPs of a few neurons, so that nothing is allocated that
goes, and then gives every layer its shape. In vLLM each norm adds up before it norms: it is given
the output of the sublayer before and the residual stream, and returns the normed sum and the sum.
So a sublayer is left out if its norm passes both on as they are, and it passes on its input.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.logger import init_logger
from vllm.model_executor.models.utils import PPMissingLayer

from ..model.families import ARCHITECTURES
from .vllm import BACKEND, NATIVE, check_served, why_not_native

_LOGGER = init_logger(f"vllm.{__name__}")


class NoNorm(nn.Module):
    """Stands where the norm of a dropped sublayer was."""

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        """Pass on what the next norm will sum up, (tokens, hidden size) each.

        Without a residual stream, in front of the first sublayer of all, the caller makes one of
        `hidden`, and there is nothing to be added to it.
        """
        return torch.zeros_like(hidden) if residual is None else (hidden, residual)


class NoSublayer(nn.Module):
    """Stands where an attention or an MLP was: returns what it is given."""

    def forward(self, hidden_states: torch.Tensor, positions: Any = None) -> torch.Tensor:
        """Return the hidden states, (tokens, hidden size)."""
        return hidden_states


def reshape(layers: Any, config: Any, attentions: dict[str, Any]) -> None:
    """Give the layers of a freshly built model the shape that `config` names.

    Args:
        layers: All layers of the model; those of other pipeline stages are stand-ins.
        config: Of a pruned model.
        attentions: What vLLM allocates key-value caches for; dropped ones are taken out.
    """
    for index, (layer, width) in enumerate(zip(layers, config.mlp_widths, strict=True)):
        if isinstance(layer, PPMissingLayer):
            continue
        if width:
            _set_width(layer.mlp, width, config.mlp_output_bias)
        else:
            layer.mlp, layer.post_attention_layernorm = NoSublayer(), NoNorm()
        if index in (config.dropped_attention or ()):
            gone = set(layer.self_attn.modules())
            for name in [name for name, module in attentions.items() if module in gone]:
                del attentions[name]
            layer.self_attn, layer.input_layernorm = NoSublayer(), NoNorm()


def _set_width(mlp: Any, width: int, output_bias: bool) -> None:
    """Replace the projections of one MLP by such of `width` neurons."""
    inputs, output = mlp.gate_up_proj, mlp.down_proj
    common = {"params_dtype": inputs.params_dtype, "quant_config": inputs.quant_config}
    mlp.gate_up_proj = type(inputs)(
        inputs.input_size,
        [width] * 2,
        bias=inputs.bias is not None,
        prefix=inputs.prefix,
        **common,
    )
    mlp.down_proj = type(output)(
        width,
        output.output_size,
        bias=output_bias or output.bias is not None,
        prefix=output.prefix,
        **common,
    )


@contextmanager
def _small_mlps(config: Any) -> Iterator[None]:
    """Let MLPs be built with a few neurons.

    The config is changed for a while, and not copied: vLLM writes to the one that it is given.
    """
    full = config.intermediate_size
    config.intermediate_size = get_tensor_model_parallel_world_size()
    try:
        yield
    finally:
        config.intermediate_size = full


def narrowed(base: Any, name: str) -> Any:
    """Make the class of one family, a subclass of vLLM's."""

    class Narrowed(base):
        """vLLM's class without the sublayers and neurons that its config leaves out."""

        def __new__(cls, *, vllm_config: Any, prefix: str = "") -> Any:
            """Make it, or what runs the class of Transformers where this cannot hold the model."""
            config = vllm_config.model_config.hf_config
            check_served(config, get_tensor_model_parallel_world_size())
            reason = why_not_native(config)
            if not reason:
                return super().__new__(cls)
            _LOGGER.warning("%s is not served by vLLM's own class: %s", name, reason)
            return _found(BACKEND)(vllm_config=vllm_config, prefix=prefix)

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            config = vllm_config.model_config.hf_config
            with _small_mlps(config):
                super().__init__(vllm_config=vllm_config, prefix=prefix)
            context = vllm_config.compilation_config.static_forward_context
            reshape(self.model.layers, config, context)

    Narrowed.__name__ = Narrowed.__qualname__ = name
    Narrowed.__module__ = __name__
    return Narrowed


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def __getattr__(name: str) -> Any:
    """Make the class of that name, for which vLLM's file of its family is loaded."""
    for family, native in NATIVE.items():
        if name == f"Effir{ARCHITECTURES[family].class_prefix}Model":
            globals()[name] = made = narrowed(_found(native.place), name)
            return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
