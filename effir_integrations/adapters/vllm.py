"""The plug-in by which vLLM serves pruned folders.

vLLM calls `register` in each of its processes, by the entry point of this package. Nothing of vLLM
is imported before that, and no class is made before a folder that needs it is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..model.families import ARCHITECTURES, PREFIX, Architecture


@dataclass(frozen=True, kw_only=True)
class Native:
    """A class of vLLM's own that serves a family once it is narrowed, and what it cannot hold."""

    place: str
    """Where it lies, as `module:class`."""
    output_bias: bool = True
    """Whether `attention_bias` gives the attention's output a bias too, as in Transformers."""
    mixed_windows: bool = True
    """Whether some layers may have a sliding window and others none."""


_LLAMA = Native(place="vllm.model_executor.models.llama:LlamaForCausalLM")
NATIVE = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Native(place="vllm.model_executor.models.qwen2:Qwen2ForCausalLM", mixed_windows=False),
    "qwen3": Native(
        place="vllm.model_executor.models.qwen3:Qwen3ForCausalLM",
        mixed_windows=False,
        output_bias=False,
    ),
}
"""By family; the others, and what these cannot hold, are served by `BACKEND`."""

BACKEND = "vllm.model_executor.models.transformers:TransformersEmbeddingModel"
"""Runs the class of Transformers, with vLLM's attention, projections and norms in it."""


def register() -> None:
    """Make vLLM know the architectures that our config.json names; may be called again and again.

    Transformers knows the config and model classes once this package is imported.
    """
    from vllm import ModelRegistry

    known = set(ModelRegistry.get_supported_archs())
    for architecture in ARCHITECTURES.values():
        name = f"Effir{architecture.class_prefix}Model"
        if name not in known:
            ModelRegistry.register_model(name, served_by(architecture))


def served_by(architecture: Architecture) -> str:
    """Return where the class lies that serves pruned models of one family, as `module:class`."""
    if architecture.family in NATIVE:
        return f"{__name__}_models:Effir{architecture.class_prefix}Model"
    return BACKEND


def why_not_native(config: Any) -> str:
    """Say why vLLM's own class of the family cannot hold a pruned model; empty where it can."""
    native = NATIVE[config.model_type.removeprefix(PREFIX)]
    if config.hidden_act != "silu":
        return f"it computes silu, and the MLPs of this model {config.hidden_act}"
    if getattr(config, "attention_bias", False) and not native.output_bias:
        return "it would leave out the bias of the attention's output"
    if len(set(getattr(config, "layer_types", None) or ())) > 1 and not native.mixed_windows:
        return "it takes one sliding window for all layers, or none"
    return ""


def check_served(config: Any, processes: int) -> None:
    """Refuse a pruned model that neither class computes as it was trained.

    Args:
        config: Of the pruned model.
        processes: How many share each projection (tensor parallel).

    Raises:
        ValueError: Neurons have gates, or do not part evenly among the processes.
    """
    if config.mlp_gates:
        raise ValueError(
            "this checkpoint has trainable gates on its neurons, which vLLM does not run; export "
            "the plan that its training ends with"
        )
    widths = config.mlp_widths
    uneven = [layer for layer, width in enumerate(widths) if width % processes]
    if uneven:
        raise ValueError(
            f"the MLPs of layers {uneven} have {[widths[x] for x in uneven]} neurons, which "
            f"{processes} processes cannot share evenly; set tensor_parallel_size=1, or prune "
            f"again with multiple_of a multiple of {processes}"
        )
