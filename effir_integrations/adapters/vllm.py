"""The plug-in by which vLLM serves pruned folders.

vLLM calls `register` in each of its processes, by the entry point of this package. Nothing of vLLM
is imported before that, and no class is made before a folder that needs it is served.
"""

from __future__ import annotations

from ..model.families import ARCHITECTURES, Architecture

NATIVE = {
    "llama": "vllm.model_executor.models.llama:LlamaForCausalLM",
    "mistral": "vllm.model_executor.models.llama:LlamaForCausalLM",
    "qwen2": "vllm.model_executor.models.qwen2:Qwen2ForCausalLM",
    "qwen3": "vllm.model_executor.models.qwen3:Qwen3ForCausalLM",
}
"""Family -> vLLM's own class, which `vllm_models` narrows; the names of its modules are known."""

BACKEND = "vllm.model_executor.models.transformers:TransformersEmbeddingModel"
"""Runs the class of Transformers with vLLM's attention, linear layers and norms."""


def register() -> None:
    """Make vLLM know the architectures that our config.json names; to be called any number of times.

    The config and model classes are made known to Transformers by importing this package.
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
