"""A tiny random Sentence Transformers folder and a small BEIR folder that it solves exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(60)]
DOCUMENTS = [
    {"_id": f"d{row}", "title": f"w{row}", "text": f"w{row + 20} w{row + 40}"} for row in range(12)
]
# Each of the first five queries repeats a document, so that any encoder finds it.
QUERIES = [{"_id": f"q{row}", "text": f"w{row} w{row + 20} w{row + 40}"} for row in range(6)]
QRELS = [(f"q{row}", f"d{row}", "1") for row in range(5)]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_beir(
    folder: Path,
    corpus: Iterable[dict[str, Any] | str] = DOCUMENTS,
    queries: Iterable[dict[str, Any] | str] = QUERIES,
    qrels: Iterable[tuple[str, ...] | str] = QRELS,
    split: str = "test",
) -> Path:
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        write_lines(folder / f"{name}.jsonl", lines)
    lines = [row if isinstance(row, str) else "\t".join(row) for row in qrels]
    write_lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
    return folder


@pytest.fixture
def make_beir(tmp_path: Path) -> Callable[..., Path]:
    """Write a BEIR folder; keyword arguments replace the rows of one of its files."""

    def make(name: str = "mini", **parts: Any) -> Path:
        return write_beir(tmp_path / name, **parts)

    return make


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
