"""Find the head with which a decoder predicts tokens, though an encoder is loaded without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..encoder.folder import source_of
from ..encoder.sources import config_place, find_source
from ..model.families import find, is_stock

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


def lm_head(encoder: SentenceTransformer) -> torch.Tensor:
    """Return the weight that turns a final state into scores of tokens, (vocabulary, hidden).

    Where the config ties it to the token embeddings it is these themselves; elsewhere it is read
    from the checkpoint that the encoder was loaded from, which takes the memory of a second model
    for as long as that lasts.

    Raises:
        ValueError: The model is no decoder, or its checkpoint was written without a head.
    """
    model: Any = encoder[0].model
    config, place = model.config, source_of(encoder)
    if not find(config).causal:
        raise ValueError(
            f"{place or config.model_type} is an encoder, which predicts no tokens; choose a "
            "decoder (a causal language model)"
        )
    if config.tie_word_embeddings:
        weight: torch.Tensor = model.get_input_embeddings().weight
        return weight
    stored = _stored(model, place) if place and is_stock(config.model_type) else None
    if stored is None:
        raise ValueError(
            f"{place or 'the model'} was written without its language-modelling head, and its "
            "config does not tie it to the token embeddings; give the folder or hub name of the "
            "whole language model"
        )
    return stored.to(encoder.device)


def _stored(model: Any, place: str) -> torch.Tensor | None:
    """Return the head that lies beside the model's weights, if one does."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        config_place(find_source(place)),
        dtype=model.dtype,
        use_safetensors=True,
        output_loading_info=True,
    )
    whole, found = loaded
    head = whole.get_output_embeddings().weight
    name = next(name for name, parameter in whole.named_parameters() if parameter is head)
    if name in found["missing_keys"]:
        return None
    weight: torch.Tensor = head.detach().clone()
    return weight
