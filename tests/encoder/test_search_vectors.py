from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny import save_bare

from effir_integrations import load
from effir_integrations.encoder.search_vectors import inner_product_is_similarity, search_vectors

TEXTS = [f"w{row} w{row + 20}" for row in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock folder whose vectors have any length."""
    base = tmp_path_factory.mktemp("models")
    encoder = load(save_bare("bert", base / "bare"))
    encoder.pop(-1)
    encoder.save(str(base / "unnormalised"))
    return base / "unnormalised"


@pytest.fixture
def model(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def test_vectors_have_unit_length_exactly_if_the_similarity_is_cosine(model: SentenceTransformer):
    model.similarity_fn_name = "dot"
    raw = search_vectors(model, TEXTS, kind="document")
    model.similarity_fn_name = "cosine"
    unit = search_vectors(model, TEXTS, kind="document")

    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert (lengths > 1.1).all()
    np.testing.assert_allclose(unit, raw / lengths, atol=1e-6)


def test_half_precision_vectors_come_out_as_float32(model: SentenceTransformer):
    assert search_vectors(model.bfloat16(), TEXTS, kind="query").dtype == np.float32


def test_queries_and_documents_get_their_prompts(model: SentenceTransformer):
    model.prompts = {"query": "w50 ", "document": "w51 "}

    queries = search_vectors(model, ["w1"], kind="query")
    documents = search_vectors(model, ["w1"], kind="document")

    bare = model.encode(["w50 w1", "w51 w1"], normalize_embeddings=True)
    np.testing.assert_allclose(np.concatenate([queries, documents]), bare, atol=1e-6)


def test_a_lone_surrogate_is_encoded(model: SentenceTransformer):
    vectors = search_vectors(model, ["w1 \ud800", "w1 \ufffd"], kind="document")

    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


@pytest.mark.parametrize("name", ["euclidean", "manhattan"])
def test_a_distance_is_refused(model: SentenceTransformer, name: str):
    model.similarity_fn_name = name

    with pytest.raises(ValueError, match=f"similarity is '{name}'; exact search"):
        inner_product_is_similarity(model)
    with pytest.raises(ValueError, match=f"similarity is '{name}'; exact search"):
        search_vectors(model, TEXTS, kind="document")


def test_a_prompt_and_a_dimension_may_be_chosen(model: SentenceTransformer):
    model.prompts = {"query": "w50 "}

    other = search_vectors(model, ["w1"], kind="query", prompt="w51 ", truncate_dim=8)

    bare = model.encode(["w51 w1"], normalize_embeddings=True, truncate_dim=8)
    assert other.shape == (1, 8)
    np.testing.assert_allclose(other, bare, atol=1e-6)
