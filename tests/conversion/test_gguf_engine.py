"""llama.cpp itself gives the ids and the vectors of the folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_gguf import TOKENIZERS, byte_level, save_pruned, save_tiny

from effir_integrations import load, mini_path
from effir_integrations.conversion import gguf_tensors, gguf_vocabulary
from effir_integrations.conversion.to_gguf import LEAST, make_gguf

pytest.importorskip("gguf")
llama_cpp = pytest.importorskip("llama_cpp")
DTYPES = tuple(LEAST)
SUBLAYERS = {
    "mlp": {"drop_mlp": (1,)},
    "last-mlp": {"drop_mlp": (3,)},
    "all-mlps": {"drop_mlp": (0, 1, 2, 3)},
    "attention": {"drop_attention": (2,)},
    "first-attention": {"drop_attention": (0,)},
    "last-attention": {"drop_attention": (3,)},
    "odd-width": {"neurons": {1: torch.arange(33), 2: torch.arange(1)}},
    "block": {"drop_mlp": (1,), "drop_attention": (1,)},
    "everything": {
        "drop_mlp": (0, 2),
        "drop_attention": (1, 2),
        "neurons": {3: torch.arange(5, 69)},
    },
}


def to_gguf(model, out, **options):
    """Write the file alone, of a folder or an encoder."""
    by_name = isinstance(model, str | Path)
    encoder = load(model, device="cpu", dtype="fp32") if by_name else model
    return make_gguf(encoder, out, name="tiny", **options)


@pytest.fixture
def out(tmp_path):
    place = tmp_path / "out"
    place.mkdir()
    return place


@pytest.mark.parametrize("family", sorted(TOKENIZERS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_of_each_family_gives_its_ids_and_vectors(family, dtype, tmp_path, out):
    checked = to_gguf(save_tiny(family, tmp_path / "x"), out, dtype=dtype).checked

    assert checked.ids_compared >= 10
    assert checked.least_cosine >= LEAST[dtype]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("gone", sorted(SUBLAYERS))
def test_a_pruned_model_gives_its_vectors(family, gone, tmp_path, out):
    checked = to_gguf(save_pruned(family, tmp_path, **SUBLAYERS[gone]), out, dtype="fp32").checked

    assert checked.least_cosine >= 0.99999


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe", "smaug-bpe"])
def test_texts_are_cut_as_by_the_folder(pre, tmp_path, out):
    folder = save_tiny("llama", tmp_path / "x", byte_level(pre))

    assert to_gguf(folder, out, dtype="fp32").checked.ids_compared >= 10


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_poolings_are_those_of_the_folder(pooling, tmp_path, out):
    encoder = load(save_tiny("qwen2", tmp_path / "x"), pooling=pooling, dtype="fp32")

    assert to_gguf(encoder, out, dtype="fp32").checked.least_cosine >= 0.9999


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_tokens_that_see_those_after_them_do_so_in_the_file(family, tmp_path, out):
    encoder = load(save_tiny(family, tmp_path / "x"), bidirectional=True, dtype="fp32")

    assert to_gguf(encoder, out, dtype="fp32").checked.least_cosine >= 0.9999


def test_rotary_frequencies_are_scaled_as_in_the_folder(tmp_path, out):
    rope = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    llama3 = {**rope, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for kind, stated in (("llama3", llama3), ("linear", {**rope, "rope_type": "linear"})):
        folder = save_tiny("llama", tmp_path / kind, rope_parameters=stated)
        place = out / kind
        place.mkdir()
        assert to_gguf(folder, place, dtype="fp32").checked.least_cosine >= 0.9999


def test_two_projections_follow_the_pooling_of_gemma_embedding(tmp_path, out):
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = save_tiny("gemma3_text", tmp_path / "x", use_bidirectional_attention=True)
    encoder = load(folder, dtype="fp32")
    for place, (inputs, outputs) in enumerate([(64, 128), (128, 64)], start=2):
        encoder.insert(place, Dense(inputs, outputs, bias=False, activation_function=None))

    assert to_gguf(encoder, out, dtype="fp32").checked.least_cosine >= 0.9999


@pytest.mark.parametrize("dtype", DTYPES)
def test_effir_mini_gives_its_vectors_of_token_ids(dtype, out):
    checked = to_gguf(mini_path(), out, dtype=dtype, tokenizer=False).checked

    assert checked.ids_compared == 0
    assert checked.least_cosine >= {"fp32": 0.99999, "fp16": 0.9999, "q8_0": 0.999}[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_minilm_gives_its_ids_and_vectors(dtype, minilm, out):
    checked = to_gguf(minilm, out, dtype=dtype).checked

    assert checked.ids_compared >= 12
    assert checked.least_cosine >= {"fp32": 0.99999, "fp16": 0.9999, "q8_0": 0.998}[dtype]


def test_a_file_with_other_vectors_is_refused(tmp_path, out, monkeypatch):
    monkeypatch.setattr(gguf_tensors, "interleave", lambda rows, _: rows)
    with pytest.raises(RuntimeError, match="other vectors than the model"):
        to_gguf(save_tiny("llama", tmp_path / "x"), out, dtype="fp32")


def test_a_file_that_cuts_texts_otherwise_is_refused(tmp_path, out, monkeypatch):
    monkeypatch.setattr(gguf_vocabulary, "pre_tokenizer_of", lambda *_: "smollm")
    with pytest.raises(RuntimeError, match="into other tokens than the folder"):
        to_gguf(save_tiny("qwen2", tmp_path / "x"), out, dtype="fp32")


def test_the_readmes_way_of_running_it_gives_the_folders_vectors(tmp_path, out):
    folder = save_pruned("mistral", tmp_path)
    to_gguf(folder, out, dtype="fp32")
    model = llama_cpp.Llama(
        str(out / "model-fp32.gguf"),
        embedding=True,
        n_ctx=64,
        n_batch=64,
        n_ubatch=64,
        verbose=False,
    )
    texts = ["the plants", "make sugar from light and water"]
    vectors = np.array(model.embed(texts, normalize=True))

    expected = load(folder, dtype="fp32").encode(texts)

    # the cache of keys and values is fp16
    assert ((vectors * expected).sum(axis=1) >= 0.9999).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
