"""Why model types that people ask for have no row in the table of families."""

from __future__ import annotations

_EXPERTS = "its MLPs are mixtures of experts, where no neuron is there for every token"
_ONE_NORM = "its attention and MLP run side by side behind one norm"
_TWO_STACKS = "it is an encoder with a decoder, and a vector of a text comes of one stack"
_LINEAR = (
    "many of its layers have linear attention where the table knows one attention in every layer"
)
_CONVOLUTIONS = (
    "many of its layers have a convolution where the table knows one attention in every layer"
)
_GEMMA_4 = (
    "its layers may have a third branch, fed with embeddings of their own, and later ones may "
    "reuse the keys and values of earlier ones, so that no layer stands for itself"
)

REFUSED: dict[str, str] = {
    "gemma4": _GEMMA_4,
    "gemma4_text": _GEMMA_4,
    "gemma3n": _GEMMA_4,
    "gemma3n_text": _GEMMA_4,
    "embedding_gemma2": (
        "it reads images and sound as well, around a text model that is no base model of its own"
    ),
    "embedding_gemma2_text": (
        "its layers have a third branch, fed with embeddings of their own, and it is published "
        "only inside embedding_gemma2"
    ),
    "lfm2": _CONVOLUTIONS,
    "qwen3_5": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_next": _LINEAR,
    "olmo_hybrid": _LINEAR,
    "mixtral": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "granitemoe": _EXPERTS,
    "gpt_oss": _EXPERTS,
    "falcon": _ONE_NORM,
    "phi": _ONE_NORM,
    "gptj": _ONE_NORM,
    "cohere": _ONE_NORM,
    "cohere2": _ONE_NORM,
    "t5": _TWO_STACKS,
    "mt5": _TWO_STACKS,
    "bart": _TWO_STACKS,
}
"""By model type, in half a sentence."""

OTHERS = "mixture-of-experts, encoder-decoder and shared-norm parallel models are not"
"""Of all types that have neither a row nor a reason."""


def why_refused(model_type: str) -> str:
    """Say in half a sentence why a model type without a row has none."""
    return REFUSED.get(model_type, OTHERS)
