"""Vectors that another model made are told from those of the encoder at hand."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import save_bare

from effir_integrations import check_space, load

PROMPTS = {"query": "w50 ", "document": "w51 w52 "}
TEXTS = [f"w{n} w{n + 9} w{n + 20}" for n in range(12)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("space")
    return [save_bare("qwen3", place / str(seed), seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def encoder(folders):
    return load(folders[0], device="cpu", prompts=PROMPTS)


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode_document(TEXTS)


def test_the_encoder_s_own_vectors_pass_in_any_form(encoder, vectors):
    assert check_space(encoder, vectors, TEXTS) > 0.999999
    assert check_space(encoder, (7 * vectors).tolist(), iter(TEXTS)) > 0.999999
    assert check_space(lambda texts: encoder.encode_document(texts).tolist(), vectors, TEXTS)


def test_another_precision_is_the_same_space(folders, vectors):
    assert check_space(load(folders[0], prompts=PROMPTS, dtype="bf16"), vectors, TEXTS) < 1


def test_another_model_is_refused_with_the_cosine(folders, vectors):
    other = load(folders[1], device="cpu", prompts=PROMPTS)
    with pytest.raises(ValueError, match=r"12 of 12 vectors .*cosine down to -?0\.\d{4}"):
        check_space(other, vectors, TEXTS)


def test_one_foreign_vector_among_many_is_found(folders, encoder, vectors):
    mixed = vectors.copy()
    mixed[7] = load(folders[1], device="cpu", prompts=PROMPTS).encode_document(TEXTS[7])
    with pytest.raises(ValueError, match="1 of 12 vectors .* for 'w7 w16 w27'"):
        check_space(encoder, mixed, TEXTS)


def test_vectors_of_another_prompt_are_refused(encoder):
    with pytest.raises(ValueError, match="another model, prompt or length"):
        check_space(encoder, encoder.encode_query(TEXTS), TEXTS)


def test_what_cannot_be_compared_is_refused(encoder, vectors):
    for rows, texts in (([], []), (vectors, TEXTS[:3])):
        with pytest.raises(ValueError, match=f"{len(rows)} vectors for {len(texts)} texts"):
            check_space(encoder, rows, texts)
    with pytest.raises(ValueError, match="have 16 dimensions, but this encoder gives 32"):
        check_space(encoder, vectors[:, :16], TEXTS)
    with pytest.raises(ValueError, match="have 16 and 32 dimensions"):
        check_space(encoder, [vectors[0], vectors[1, :16]], TEXTS[:2])
    for bad in (np.nan, 0.0):
        with pytest.raises(ValueError, match="1 of 12 vectors"):
            check_space(encoder, np.vstack([np.full((1, 32), bad), vectors[1:]]), TEXTS)
