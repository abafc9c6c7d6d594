"""Tiny random models of every family, and a tokenizer made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from effir_integrations.model.families import ARCHITECTURES

FAMILIES = sorted(ARCHITECTURES)
KINDS = (
    *("bert", "distilbert", "eurobert", "gemma2", "gpt2", "gpt_neox", "jina_embeddings_v3"),
    *("modernbert", "mpnet", "nomic_bert", "olmo2", "phi3", "qwen3", "roberta"),
)
"""One family of each kind of row in the table: what other rows say in the same words."""
RELATED = (
    *("camembert", "electra", "ernie", "ernie4_5", "granite", "gte", "ministral3", "smollm3"),
    *("eurobert", "jina_embeddings_v3", "olmo2", "gemma", "llama", "qwen2", "xlm-roberta"),
)
"""Families whose row is that of a kind but for its names, or put together of what other kinds have.
The invariants are tried with them at every turn: dropping, slicing, reloading, vectors of the stock
class, writing from disk. What takes seconds is run with them among the slow tests alone."""


def in_full(*families: str) -> pytest.MarkDecorator:
    """Run an expensive test with families, or all, of which `RELATED` are among the slow ones."""
    return pytest.mark.parametrize("family", [slow_if_related(x) for x in families or FAMILIES])


UNLIKE = ("bert", "gemma2", "gpt2", "modernbert", "mpnet", "qwen3")
"""Families that differ most: all that the longest tests, of ten seconds for a family with what is
made of it, are run with but for the slow ones."""


def in_few(*families: str) -> pytest.MarkDecorator:
    """Run one of the longest tests with families, or all, the slow ones all but `UNLIKE`."""
    return pytest.mark.parametrize(
        "family",
        [
            pytest.param(family, marks=[] if family in UNLIKE else [pytest.mark.slow])
            for family in families or FAMILIES
        ],
    )


def slow_if_related(family: str, *more: Any) -> Any:
    """Return the parameters of a test, among the slow ones where the family is one of them."""
    return pytest.param(family, *more, marks=[pytest.mark.slow] if family in RELATED else [])


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
FAMILY_OPTIONS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": GROUPED,
    # scores grow with the position from the eighth token on
    "ministral3": {
        **GROUPED,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 16.0,
            "original_max_position_embeddings": 8,
            "llama_4_scaling_beta": 0.5,
        },
    },
    # each branch, the embeddings and the scores are multiplied
    "granite": {
        "num_key_value_heads": 2,
        "residual_multiplier": 0.4,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.5,
    },
    "smollm3": {"num_key_value_heads": 2, "no_rope_layer_interval": 2},
    "ernie4_5": GROUPED,
    "eurobert": GROUPED,
    "olmo2": {"num_key_value_heads": 2},
    "gemma": GROUPED,
    "gemma2": GROUPED,
    "gemma3_text": GROUPED,
    "phi3": {"num_key_value_heads": 2},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2},
    "gpt2": {"n_inner": 48},
    "distilbert": {"hidden_dim": 48},
}
ON_DISK = [family for family in FAMILIES if not ARCHITECTURES[family].stored_otherwise]
"""Families whose checkpoints are read tensor by tensor."""
WORDS = [f"w{number}" for number in range(60)]


def tiny_model(family: str, seed: int = 0, **options: Any) -> transformers.PreTrainedModel:
    """Return a random base model whose norms and biases are not at their neutral start."""
    prefix = ARCHITECTURES[family].class_prefix
    sizes = {**SIZES, **FAMILY_OPTIONS.get(family, {}), **options}
    if family == "distilbert":
        sizes.pop("intermediate_size")
    if family == "gpt2":
        sizes.pop("intermediate_size")
    config = getattr(transformers, f"{prefix}Config")(**sizes)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{prefix}Model")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter.dtype), alpha=0.1)
    return model.eval()


def tiny_tokenizer(
    *, eos: bool = True, pad: bool = True, adds_bos: bool = True
) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer with a BOS and no EOS, as many decoders have."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        unk_token="<unk>",
        model_max_length=32,
        **({"eos_token": "</s>"} if eos else {}),
        **({"pad_token": "<pad>"} if pad else {}),
    )


def byte_level_tokenizer() -> transformers.Qwen2Tokenizer:
    """Return the tokenizer class that Qwen2 models are given whatever their folder names."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*specials, "w", "Ġ", *"0123456789"])}
    return transformers.Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=32,
    )


def save_bare(family: str, folder: Path, **options: Any) -> Path:
    """Write a bare Hugging Face folder: config, weights, tokenizer."""
    tiny_model(family, **options).save_pretrained(folder)
    tokenizer = byte_level_tokenizer() if family == "qwen2" else tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    return folder
