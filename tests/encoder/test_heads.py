"""What stands behind the transformer runs in fp32, so vectors of any dtype have unit length."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling
from tiny import save_bare

from effir_integrations.encoder.encoder import Encoder
from effir_integrations.encoder.loading import load
from effir_integrations.encoder.search_vectors import search_vectors

TEXTS = [f"w{number} w{number * 7 % 60} " + "w3 " * (number % 9) for number in range(40)]
NARROW = [{"dtype": "bf16"}, {"dtype": "fp16"}, {"precision": "bf16"}, {"precision": "int8"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_bare("qwen3", tmp_path_factory.mktemp("qwen3"))


class OwnNormalize(Normalize):
    """A module that the fast way does not know, so that texts take the stock way."""


def with_heads(folder, *heads, pooling="mean", dtype="bf16") -> Encoder:
    first = load(folder, device="cpu", dtype=dtype)[0]
    return Encoder(modules=[first, Pooling(32, pooling_mode=pooling), *heads], device="cpu").eval()


def assert_of_unit_length(vectors) -> None:
    vectors = np.asarray(vectors)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=5e-7)


@pytest.mark.parametrize("options", NARROW, ids=str)
@pytest.mark.parametrize("pooling", ["lasttoken", "cls", "mean"])
def test_vectors_of_any_dtype_are_fp32_of_unit_length(folder, pooling, options, monkeypatch):
    monkeypatch.setattr("effir_integrations.encoder.precision.has_bf16", lambda device: True)
    encoder = load(folder, device="cpu", pooling=pooling, **options)
    assert_of_unit_length(encoder.encode(TEXTS))
    assert_of_unit_length(encoder.encode(TEXTS, convert_to_tensor=True))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_stock_way_gives_them_as_well(folder, dtype):
    encoder = with_heads(folder, OwnNormalize(), dtype=dtype)
    assert_of_unit_length(encoder.encode(TEXTS))
    outputs = encoder.encode(TEXTS, output_value=None)
    assert_of_unit_length(np.stack([each["sentence_embedding"] for each in outputs]))
    assert encoder.encode(TEXTS[:1], output_value="token_embeddings")[0].dtype == torch.float32


@pytest.mark.parametrize("heads", [[], [OwnNormalize()]], ids=["fast", "stock"])
def test_what_encode_cuts_and_normalises_has_unit_length(folder, heads):
    encoder = with_heads(folder, *heads)
    assert_of_unit_length(encoder.encode(TEXTS, normalize_embeddings=True))
    assert_of_unit_length(encoder.encode(TEXTS, truncate_dim=8, normalize_embeddings=True))


@pytest.mark.parametrize("last", [Normalize, OwnNormalize], ids=["fast", "stock"])
@pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
def test_heads_in_bf16_compute_in_fp32(folder, pooling, last):
    encoder = with_heads(folder, Dense(32, 16), LayerNorm(16), last(), pooling=pooling)
    wide = copy.deepcopy(list(encoder)[1:])
    features = encoder[0](encoder.preprocess(TEXTS))
    features["token_embeddings"] = features["token_embeddings"].float()
    for module in wide:
        features = module.float()(features)
    found = encoder.encode(TEXTS)
    assert_of_unit_length(found)
    expected = features["sentence_embedding"].detach().numpy()
    # bf16 rounds otherwise in other batches, before the heads: so much is 1 - cosine, at most
    assert (1 - (found * expected).sum(1)).max() < 1e-4
    assert next(encoder[2].parameters()).dtype == torch.bfloat16


def test_an_encoder_cast_after_loading_encodes(folder):
    encoder = with_heads(folder, Dense(32, 16), Normalize(), dtype="fp32").bfloat16()
    assert_of_unit_length(encoder.encode(TEXTS))


def test_inner_products_of_search_are_cosines_for_a_narrow_stock_model(folder, tmp_path):
    with_heads(folder).save(str(tmp_path))
    stock = SentenceTransformer(str(tmp_path), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    assert_of_unit_length(search_vectors(stock, TEXTS, kind="document"))
    assert_of_unit_length(search_vectors(stock, TEXTS, kind="query", truncate_dim=8))


def test_gradients_reach_heads_that_are_held_in_bf16(folder):
    encoder = with_heads(folder, Dense(32, 16), Normalize())
    encoder(encoder.preprocess(TEXTS[:2]))["sentence_embedding"][:, 0].sum().backward()
    assert all(float(x.grad.abs().sum()) > 0 for x in encoder[2].parameters())
