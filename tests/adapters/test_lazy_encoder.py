from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from tiny import save_bare

from effir_integrations import load
from effir_integrations.adapters.lazy_encoder import LazyEncoder

TEXTS = ["w1 w2 w3", "w4", "w5 w6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("lazy")
    prompts = {"query": "w50 ", "document": "w51 "}
    load(save_bare("qwen3", base / "bare"), prompts=prompts).save(str(base / "model"))
    return base / "model"


def test_weights_are_loaded_when_the_first_text_comes_and_again_after_unload(folder):
    lazy = LazyEncoder(folder)
    assert not lazy.is_loaded
    before = lazy.embed(TEXTS, "document")
    assert lazy.is_loaded
    lazy.unload()
    assert not lazy.is_loaded
    np.testing.assert_array_equal(lazy.embed(TEXTS, "document"), before)


def test_roles_take_the_prompts_of_the_model_and_a_given_prompt_replaces_them(folder):
    encoder = load(folder)
    lazy = LazyEncoder(folder, precision=None)
    for kind, method in (("query", encoder.encode_query), ("document", encoder.encode_document)):
        expected = method(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(lazy.embed(TEXTS, kind), expected, atol=1e-6)
    bare = encoder.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(lazy.embed(TEXTS, "query", prompt=""), bare, atol=1e-6)
    assert not np.allclose(lazy.embed(TEXTS, "query"), bare, atol=1e-3)


def test_no_text_gives_no_vectors_of_the_right_length(folder):
    assert LazyEncoder(folder).embed([], "query").shape == (0, 32)
    assert LazyEncoder(folder, truncate_dim=8).embed([], "query").shape == (0, 8)


def test_vectors_are_cut_and_texts_are_cut(folder):
    lazy = LazyEncoder(folder, truncate_dim=8, max_length=4, precision=None)
    long, short = lazy.embed(["w1 " * 20, "w1 w1"], "document", prompt="")
    assert long.shape == (8,) and lazy.dimension == 8
    # BOS, two words and EOS are four tokens
    np.testing.assert_allclose(long, short, atol=1e-6)
    assert not np.allclose(lazy.embed(["w1 " * 20], "document", prompt="", max_length=9)[0], long)
    assert lazy.encoder.max_seq_length != 4


def test_truncation_counts_the_texts_that_are_too_long(folder):
    lazy = LazyEncoder(folder, max_length=10)
    assert lazy.truncation(["w1 w2", "w3"]) == (0, 0.0)
    # BOS, 18 words and EOS are 20 tokens
    count, share = lazy.truncation(["w11 " * 18, "w1 w2 w3 w4 w5"])
    assert (count, share) == (1, 0.5)


def test_a_pickle_holds_no_weights_and_gives_the_same_vectors(folder):
    lazy = LazyEncoder(folder)
    vectors = lazy.embed(TEXTS, "query")
    packed = pickle.dumps(lazy)
    assert len(packed) < 2_000
    again = pickle.loads(packed)
    assert not again.is_loaded
    np.testing.assert_array_equal(again.embed(TEXTS, "query"), vectors)


def test_a_loaded_model_travels_with_its_weights_and_cannot_be_unloaded(folder):
    lazy = LazyEncoder(load(folder))
    again = pickle.loads(pickle.dumps(lazy))
    np.testing.assert_array_equal(again.embed(TEXTS, "query"), lazy.embed(TEXTS, "query"))
    with pytest.raises(ValueError, match="could not be loaded again"):
        lazy.unload()


def test_other_weights_at_the_same_place_have_another_fingerprint(tmp_path):
    bare = save_bare("bert", tmp_path / "model")
    first = LazyEncoder(bare).fingerprint
    assert LazyEncoder(bare).fingerprint == first
    save_bare("bert", bare, seed=1)
    assert LazyEncoder(bare).fingerprint != first


def test_a_loaded_model_has_a_fingerprint_of_its_weights(folder):
    encoder = load(folder)
    first = LazyEncoder(encoder).fingerprint
    assert LazyEncoder(load(folder)).fingerprint == first
    next(iter(encoder.parameters())).data.add_(1)
    assert LazyEncoder(encoder).fingerprint != first


def test_threads_that_come_together_load_once(folder, monkeypatch):
    from effir_integrations.adapters import lazy_encoder

    loads = []
    monkeypatch.setattr(lazy_encoder, "load", lambda *a, **k: loads.append(a) or load(*a, **k))
    lazy = LazyEncoder(folder)
    threads = [threading.Thread(target=lazy.embed, args=(TEXTS, "query")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


@pytest.mark.parametrize("setting", ["max_length", "truncate_dim"])
def test_settings_out_of_range_are_refused(folder, setting):
    with pytest.raises(ValueError, match=f"{setting}=0 must be at least 1"):
        LazyEncoder(folder, **{setting: 0})


def test_what_is_no_model_folder_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither config.json nor modules.json"):
        LazyEncoder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no model folder"):
        LazyEncoder(tmp_path / "missing")


def test_a_device_for_a_loaded_model_is_refused(folder):
    with pytest.raises(ValueError, match=r"model.to"):
        LazyEncoder(load(folder), device="cpu")


def test_a_text_that_is_no_string_is_refused(folder):
    with pytest.raises(ValueError, match="only strings"):
        LazyEncoder(folder).embed([3], "document")
