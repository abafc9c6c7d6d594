"""A tiny random Sentence Transformers folder, which finds what tests/beir_folder.py writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(60)]


def write_model(folder: Path, *, layers: int = 2, **options: Any) -> Path:
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    bare = folder.parent / f"{folder.name}-bare"
    BertModel(config).save_pretrained(bare)
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(bare)
    transformer = Transformer(str(bare))
    model = SentenceTransformer(
        modules=[transformer, Pooling(32, pooling_mode="mean")], device="cpu", **options
    )
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, cosine similarity, no prompts."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def smaller_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer, and the same folder name as `model_folder`."""
    return write_model(tmp_path_factory.mktemp("smaller") / "tiny", layers=1)


@pytest.fixture
def model(model_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(model_folder), device="cpu")


@pytest.fixture(scope="module")
def other(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same shape, a little off."""
    encoder = SentenceTransformer(str(model_folder), device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("models") / "other"
    encoder.save_pretrained(str(folder))
    return folder
