from __future__ import annotations

import logging

import numpy as np
import pytest
from tiny import save_bare

from effir_integrations import load
from effir_integrations.adapters.pyserini.encoders import EffirDocumentEncoder, EffirQueryEncoder

TEXTS = ["w1 w2 w3", "w4 w5"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("encoders")
    prompts = {"query": "w50 ", "document": "w51 "}
    load(save_bare("qwen3", base / "bare"), prompts=prompts).save(str(base / "model"))
    return str(base / "model")


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    monkeypatch.setenv("EFFIR_PRECISION", "fp32")


def close(found, expected):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_documents_get_title_and_prompt_and_no_none(model):
    encoder, plain = EffirDocumentEncoder(model_name=model, device="cuda:0"), load(model)
    found = encoder.encode(
        texts=["w1 w2", None, "w3", None], titles=["w9", "w8", None, None],
        fp16=False, max_length=32, add_sep=False,
    )  # fmt: skip
    close(found, plain.encode_document(["w9 w1 w2", "w8", "w3", ""]))
    close(encoder.encode(TEXTS), plain.encode_document(TEXTS))
    close(encoder.encode("w1", "w2"), plain.encode_document(["w2 w1"]))


def test_a_length_cuts_documents_in_one_call(model):
    encoder = EffirDocumentEncoder(model)
    long, short = "w1 w2 w3 w4 w5 w6", "w1"
    cut = encoder.encode([long, short], max_length=4)
    # BOS, prompt, one word and EOS are four tokens
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
    whole = encoder.encode([long, short])
    assert not np.allclose(whole[0], whole[1], atol=1e-3)


def test_half_precision_is_half_precision(model):
    encoder = EffirDocumentEncoder(model)
    encoder.encode(TEXTS, fp16=True)
    assert encoder.lazy.encoder.dtype.itemsize == 2
    assert EffirQueryEncoder(model, fp16=True).lazy.encoder.dtype.itemsize == 2
    assert EffirQueryEncoder(model).lazy.encoder.dtype.itemsize == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"urls": ["a", "b"]}, r"title and text, .*'urls'"),
        ({"titles": ["a"]}, "1 titles for 2 texts"),
    ],
)
def test_other_fields_and_missing_titles_are_refused(model, fields, message):
    with pytest.raises(ValueError, match=message):
        EffirDocumentEncoder(model).encode(TEXTS, **fields)


def test_queries_get_the_prompt_of_the_model(model):
    encoder, expected = EffirQueryEncoder(encoder_dir=model, device="cpu"), load(model)
    one = encoder.encode("w1 w2 w3")
    assert one.shape == (32,)
    close(one, expected.encode_query("w1 w2 w3"))
    close(encoder.encode(qid=7, query="w1 w2 w3"), one)
    close(
        encoder.encode_batch(["w1 w2 w3", {"qid": 1, "query": "w4 w5"}]),
        expected.encode_query(TEXTS),
    )


@pytest.mark.parametrize(
    ("prefix", "prompt"), [("w7", "w7 "), ("w7\n", "w7\n"), ("", ""), (None, "w50 ")]
)
def test_a_prefix_replaces_the_prompt(model, prefix, prompt):
    encoder = EffirQueryEncoder(model, prefix=prefix)
    close(encoder.encode("w1"), load(model).encode([f"{prompt}w1"])[0])


def test_a_query_without_text_is_refused(model):
    encoder = EffirQueryEncoder(model)
    for call in (
        lambda: encoder.encode(None),
        lambda: encoder.encode(query_txt="w1", qid="7"),
        lambda: encoder.encode_batch([None]),
        lambda: encoder.encode_batch([{"title": "w1"}]),
    ):
        with pytest.raises(ValueError, match="text.*give topics with a title"):
            call()


def test_options_without_effect_are_said_to_have_none(model, caplog):
    with caplog.at_level(logging.WARNING):
        EffirQueryEncoder(model, pooling="mean", l2_norm=True)
        EffirDocumentEncoder(model, pooling="mean", l2_norm=False)
    first, second = (record.getMessage() for record in caplog.records)
    assert "pooling='mean', l2_norm=True: without effect" in first
    assert "l2_norm" not in second


def test_another_tokenizer_and_what_is_no_model_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="brings its own; leave --tokenizer out"):
        EffirQueryEncoder(model, tokenizer_name="bert-base-uncased")
    for kind in (EffirQueryEncoder, EffirDocumentEncoder):
        with pytest.raises(FileNotFoundError, match="neither config.json"):
            kind(str(tmp_path))


def test_the_precision_of_the_weights_can_be_asked_for(model, monkeypatch):
    monkeypatch.setenv("EFFIR_PRECISION", "checkpoint")
    close(EffirQueryEncoder(model).encode("w1"), load(model).encode_query("w1"))
    monkeypatch.setenv("EFFIR_PRECISION", "fp8")
    with pytest.raises(ValueError, match="precision 'fp8' is not known"):
        EffirQueryEncoder(model).encode("w1")
