from __future__ import annotations

import asyncio
import pickle
import threading
from functools import partial

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


def test_one_string_in_place_of_a_list_is_refused(folder):
    with pytest.raises(ValueError, match="give a list of strings"):
        LazyEncoder(folder).embed("w1 w2", "document")


async def test_asynchronous_calls_give_the_same_and_run_on_one_thread(folder, monkeypatch):
    lazy = LazyEncoder(folder, precision="fp32")
    expected = [lazy.embed([text], "document") for text in TEXTS]
    forward, threads = lazy.encoder[0].model.forward, []

    def watched(*args, **kwargs):
        threads.append(threading.current_thread())
        return forward(*args, **kwargs)

    monkeypatch.setattr(lazy.encoder[0].model, "forward", watched)
    calls = [partial(lazy.embed, [text], "document") for text in TEXTS]
    vectors = await asyncio.gather(*map(lazy.arun, calls))
    np.testing.assert_array_equal(vectors, expected)
    assert len(threads) == len(TEXTS)
    assert set(threads) != {threading.main_thread()} and len(set(threads)) == 1


def test_identities_are_equal_only_where_the_vectors_are(folder):
    def identity(prompts=None, **settings):
        lazy = LazyEncoder(folder, **{"precision": "fp32", "device": "cpu", **settings})
        return lazy.vectors_identity(**(prompts or {}))

    first = identity({"query": None})
    assert identity({"query": None}, device=None) == first
    settings = ({"max_length": 4}, {"truncate_dim": 4}, {"precision": "bf16"}, {"precision": None})
    others = [identity({"query": None}, **setting) for setting in settings]
    others += [identity({"query": ""}), first]
    assert len(set(others)) == len(others)
    # auto is one of the two
    assert identity(precision="auto") in (identity(precision="fp32"), identity(precision="bf16"))


def test_documents_that_are_too_long_are_told_of_once(folder, caplog):
    lazy = LazyEncoder(folder, max_length=10)
    lazy.warn_of_cuts(["w11 " * 6])
    assert not caplog.messages
    # BOS, the prompt, 17 words and EOS are 20 tokens
    lazy.warn_of_cuts(["w11 " * 17, "w1", 3])
    lazy.warn_of_cuts(["w11 " * 17])
    (message,) = caplog.messages
    assert "1 of 3 documents are longer than the 10 tokens" in message
    assert "50 % of their tokens are lost" in message


def test_weights_that_changed_before_they_are_loaded_again_are_refused(tmp_path):
    bare = save_bare("bert", tmp_path / "model")
    lazy = LazyEncoder(bare)
    lazy.embed(TEXTS, "query")
    save_bare("bert", bare, seed=1)
    lazy.embed(TEXTS, "query")
    lazy.unload()
    with pytest.raises(RuntimeError, match="others than when .* was named"):
        lazy.embed(TEXTS, "query")


def test_the_limit_is_the_smaller_of_the_two(folder):
    own = load(folder).max_seq_length
    limits = [LazyEncoder(folder, max_length=x).limit for x in (None, 10, 2 * own)]
    assert limits == [own, 10, own]


def test_the_tokenizer_is_a_copy_that_counts_alike(folder):
    lazy = LazyEncoder(folder)
    tokenizer = lazy.tokenizer
    assert tokenizer is not lazy.encoder.tokenizer
    assert tokenizer("w1 w2")["input_ids"] == lazy.encoder.tokenizer("w1 w2")["input_ids"]


def test_an_unknown_precision_is_refused_before_anything_is_loaded(folder):
    with pytest.raises(ValueError, match="precision 'fp8' is not known; choose None or auto, fp32"):
        LazyEncoder(folder, precision="fp8")
