"""Every family, plain and pruned, gives the folder's vectors in onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from converted import TEXTS, least_cosine, write_encoder
from tiny import in_few

from effir_integrations import convert, load

pytest.importorskip("onnxscript")
from effir_integrations.onnx import OnnxEncoder

LEAST = 0.99999


@pytest.fixture(
    params=[
        pytest.param(False, marks=pytest.mark.slow, id="plain"),
        pytest.param(True, id="pruned"),
    ]
)
def pruned(request):
    """A pruned model has all that a plain one has, but for the class of the stock model."""
    return request.param


@pytest.fixture
def pair(family, pruned, tmp_path):
    """An encoder, and the same in onnxruntime."""
    folder = write_encoder(family, tmp_path, pruned=pruned)
    done = convert(folder, tmp_path / "out", "onnx")
    assert done.cosine >= LEAST
    return load(folder, device="cpu"), OnnxEncoder(tmp_path / "out", threads=1)


@in_few()
def test_a_family_gives_the_vectors_of_its_folder(pair):
    encoder, converted = pair
    expected = np.stack([encoder.encode(text) for text in TEXTS])
    assert least_cosine(expected, converted.encode(TEXTS)) >= LEAST
    ids = encoder.tokenizer(TEXTS, truncation=True, max_length=32)["input_ids"]
    assert converted.token_ids(TEXTS) == ids
    # all lengths in one batch, what is padding on either side
    for side in ("right", "left"):
        found = converted.embed_ids(ids, padding_side=side)
        np.testing.assert_allclose(found, expected, atol=2e-5)
        # engines pad with ids of their own
        converted._pad_id = 7
        np.testing.assert_allclose(converted.embed_ids(ids, padding_side=side), expected, atol=2e-5)
    queries = encoder.encode_query(TEXTS)
    assert least_cosine(queries, converted.encode_query(TEXTS)) >= LEAST
    assert least_cosine(queries, expected) < LEAST
