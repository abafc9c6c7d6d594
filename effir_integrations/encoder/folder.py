"""Write a finished encoder as a Sentence Transformers folder that loads as the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.util import batch_to_device

from ..files import new_folder
from ..model.identity import BaseIdentity
from ..model.rewrite import identity_on_disk
from .encoder import Encoder, transformer_model
from .history import write_history
from .loading import load
from .sources import find_architecture
from .tokenization import save_tokenizer, texts_without_tokens

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


PROBES = (
    "pruned",
    "",
    "a sentence of some length, so that padding is in play for the shorter ones of this batch",
    "Größe, 大小, حجم, размер",
    "the longest of them " * 80,
)
"""Texts whose vectors must be the same, bit for bit, before and after saving."""


def source_of(encoder: SentenceTransformer) -> str:
    """Return the folder, or the name on the hub, that an encoder was loaded from."""
    return str(transformer_model(encoder).config.name_or_path)


def save(
    encoder: SentenceTransformer, history: Mapping[str, Any], out: Path, *, force: bool = False
) -> Encoder:
    """Write a finished encoder and its history as a folder, and return what loads from there.

    Raises:
        FileExistsError: `out` holds something and `force` was not given.
        OSError: The disk is full.
        RuntimeError: The reloaded folder gives other vectors; nothing is left behind.
    """
    with new_folder(out, force=force, needed_bytes=saved_bytes(encoder)) as partial:
        reloaded = save_into(encoder, history, partial)
    model = transformer_model(reloaded)
    # it was loaded from where the folder lay before it got its name
    model.name_or_path = model.config.name_or_path = reloaded.tokenizer.name_or_path = str(out)
    return reloaded


def save_into(encoder: SentenceTransformer, history: Mapping[str, Any], partial: Path) -> Encoder:
    """Write a finished encoder into a folder that has no name yet, and return what loads from it.

    Raises:
        RuntimeError: The reloaded folder gives other vectors.
    """
    encoder.save_pretrained(str(partial), create_model_card=False)
    save_tokenizer(encoder.tokenizer, partial)
    write_history(partial, history, encoder._model_card_text)
    reloaded = load(partial, device=str(encoder.device), dtype="auto")
    check_same_vectors(encoder, reloaded)
    return reloaded


def saved_bytes(encoder: SentenceTransformer) -> int:
    """Return about how many bytes `save` writes, rather too many."""
    weights = sum(tensor.nbytes for tensor in transformer_model(encoder).state_dict().values())
    return int(weights * 1.05) + 20_000_000


def probe(encoder: SentenceTransformer) -> torch.Tensor:
    """Return the vectors of those `PROBES` that hold a token, by one plain forward pass.

    One batch of many tokens: products of few rows take kernels whose last bit depends on where in
    memory the weights lie, and what is saved must come back bit for bit.

    Returns:
        (texts, dimension), fp32.
    """
    encoder.eval()
    silent = texts_without_tokens(encoder, PROBES)
    texts = [text for place, text in enumerate(PROBES) if place not in silent]
    with torch.inference_mode():
        features = batch_to_device(encoder.preprocess(texts), encoder.device)
        vectors: torch.Tensor = encoder(features)["sentence_embedding"]
    return vectors.float()


def check_same_vectors(before: SentenceTransformer, after: SentenceTransformer) -> None:
    """Compare the vectors of `PROBES` bit for bit.

    Raises:
        RuntimeError: They differ.
    """
    first, second = probe(before), probe(after)
    if not torch.equal(first, second):
        difference = (first - second).abs().max().item()
        raise RuntimeError(
            f"the saved folder gives other vectors than the model in memory (largest difference "
            f"{difference:.3g}); nothing was kept, please report this with the model's name"
        )


def identify(model: str | Path) -> BaseIdentity:
    """Return the identity of a model by name, from its files alone where they are on this disk."""
    find_architecture(model)
    if Path(model).is_dir():
        return identity_on_disk(Path(model))
    return BaseIdentity.of(transformer_model(load(model)), str(model))
