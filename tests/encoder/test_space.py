"""Vectors that another model made are told from those of the encoder at hand."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import save_bare

from effir_integrations import check_space, export, load
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan

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


@pytest.fixture(scope="module")
def pruned(folders, tmp_path_factory):
    """A query encoder in the space of the first model."""
    full = load(folders[0], device="cpu", prompts=PROMPTS)
    plan = PruningPlan(base=BaseIdentity.of(full[0].model, "tiny"), drop_mlp=(1,))
    return export(full, plan, tmp_path_factory.mktemp("pruned") / "out")


def test_queries_of_a_pruned_encoder_can_search_the_vectors_of_the_full_one(pruned, vectors):
    with pytest.raises(ValueError, match="12 of 12 vectors are not those that this encoder gives"):
        check_space(pruned, vectors, TEXTS)
    found = check_space(pruned, vectors, TEXTS, queries_only=True)
    own = (vectors * pruned.encode_document(TEXTS)).sum(axis=1)
    assert found == pytest.approx(own.min(), abs=1e-6) and found < 0.99
    assert check_space(pruned, (3 * vectors).tolist(), TEXTS, queries_only=True) < 0.99


def test_queries_of_the_encoder_itself_can_search_its_vectors(encoder, vectors):
    assert check_space(encoder, vectors, TEXTS, queries_only=True) > 0.999999


def test_vectors_of_another_space_are_refused_to_queries_as_well(folders, pruned, vectors):
    other = load(folders[1], device="cpu", prompts=PROMPTS).encode_document(TEXTS)
    with pytest.raises(ValueError, match=r"1\d of 12 vectors are of another space.*effir pair"):
        check_space(pruned, other, TEXTS, queries_only=True)
    with pytest.raises(ValueError, match="have 16 dimensions, but this encoder gives 32"):
        check_space(pruned, vectors[:, :16], TEXTS, queries_only=True)


def test_vectors_of_two_models_are_refused_to_queries(folders, pruned, vectors):
    mixed = vectors.copy()
    mixed[7] = load(folders[1], device="cpu", prompts=PROMPTS).encode_document(TEXTS[7])
    with pytest.raises(ValueError, match="1 of 12 vectors are of another space.*'w7 w16 w27'"):
        check_space(pruned, mixed, TEXTS, queries_only=True)
    mixed[7] = vectors[7]
    mixed[2:5] = pruned.encode_document(TEXTS[2:5])
    with pytest.raises(ValueError, match="two models made these .* 3 of 12 are this encoder's own"):
        check_space(pruned, mixed, TEXTS, queries_only=True)
    mixed[2] = np.nan
    with pytest.raises(ValueError, match="1 of 12 vectors are of another space.*'w2 w11 w22'"):
        check_space(pruned, mixed, TEXTS, queries_only=True)


def test_too_few_texts_do_not_tell(pruned, vectors):
    for rows in (range(7), [0] * 12):
        texts = [TEXTS[row] for row in rows]
        with pytest.raises(ValueError, match="different texts are too few to tell"):
            check_space(pruned, vectors[list(rows)], texts, queries_only=True)
