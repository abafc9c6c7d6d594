"""The verbs that make training data, end to end on tiny models."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from tiny import save_bare, tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification
from verbs import effir, effir_json, refused

pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_bare("bert", tmp_path_factory.mktemp("base") / "tiny-bert")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rerankers") / "tiny"
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_labels": 1}
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=1, num_attention_heads=4, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    """A BEIR folder of twenty documents, four of which are asked for."""
    folder = tmp_path / "mini"
    (folder / "qrels").mkdir(parents=True)
    rows = [f"w{row} w{row + 20} w{row + 25}" for row in range(20)]
    corpus = [json.dumps({"_id": f"d{i}", "title": "", "text": x}) for i, x in enumerate(rows)]
    queries = [json.dumps({"_id": f"q{i}", "text": x}) for i, x in enumerate(rows[:4])]
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(4))]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "qrels" / "train.tsv").write_text("\n".join(qrels))
    return folder


def test_mine_then_score(encoder, reranker, data, tmp_path):
    mined, scored = tmp_path / "mined.jsonl", tmp_path / "scored.jsonl"

    # Each query is the text of its document, so that nothing is as similar.
    result = effir_json(
        "mine", encoder, mined, "--data", data, "--negatives", 3, "--relative-margin", 0
    )
    assert result == {"path": str(mined), "queries": 4, "negatives": 12, "short": 0, "filled": 0}
    result = effir_json("score", reranker, mined, scored)
    assert result == {"path": str(scored), "queries": 4, "passages": 16}

    for line in scored.read_text().splitlines():
        row = json.loads(line)
        assert row["pos"] == [row["query"]]
        assert (len(row["pos_scores"]), len(row["neg_scores"])) == (1, 3)


def test_the_result_is_one_line_and_quiet_is_none(encoder, reranker, data, tmp_path):
    mined = tmp_path / "mined.jsonl"
    options = ["--negatives", 30, "--relative-margin", 0]

    result = effir("mine", encoder, mined, "--data", data, *options)
    assert result.exit_code == 0, result.output
    assert f"written to {mined}: 4 queries" in result.stdout
    assert "4 queries have fewer than 30" in result.stdout
    result = effir("mine", encoder, mined, "--data", data, *options, "--quiet", "--force")
    assert (result.exit_code, result.stdout) == (0, "")
    result = effir("score", reranker, mined, tmp_path / "scored.jsonl")
    assert f"written to {tmp_path / 'scored.jsonl'}: 4 queries" in result.stdout
    result = effir("score", reranker, mined, tmp_path / "scored.jsonl", "--quiet", "--force")
    assert (result.exit_code, result.stdout) == (0, "")


def test_faiss_and_a_shorter_length_are_passed_on(encoder, data, tmp_path):
    pytest.importorskip("faiss")
    shared = ["--negatives", 3, "--relative-margin", 0]
    effir_json("mine", encoder, tmp_path / "a.jsonl", "--data", data, *shared)
    effir_json("mine", encoder, tmp_path / "b.jsonl", "--data", data, *shared, "--faiss")
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    # Of one token nothing but the start is left: every text is the same.
    message = refused("mine", encoder, tmp_path / "c.jsonl", "--data", data, "--max-length", 1)
    assert "no negative was found for any of 4 queries" in message


@pytest.mark.parametrize("verb", ["mine", "score"])
def test_an_existing_file_is_refused_before_the_model_is_looked_for(data, tmp_path, verb):
    out = tmp_path / "out.jsonl"
    out.write_text(json.dumps({"query": "q", "pos": ["p"]}))
    files = [out, "--data", data] if verb == "mine" else [out, out]
    message = refused(verb, tmp_path / "no-model", *files)
    assert "out.jsonl exists; choose another file, or replace it (--force)" in message


def test_mistakes_of_mine_are_one_line(encoder, data, tmp_path):
    out = tmp_path / "out.jsonl"
    assert "nothing is there" in refused("mine", encoder, out, "--data", "nothing.jsonl")
    assert "for evaluation" in refused("mine", encoder, out, "--data", data, "--split", "test")
    assert "no judgements for split" in refused(
        "mine", encoder, out, "--data", data, "--split", "dev"
    )
    assert "negatives=0" in refused("mine", encoder, out, "--data", data, "--negatives", 0)
    assert "range_max=3" in refused("mine", encoder, out, "--data", data, "--range-max", 3)
    assert "relative_margin=-1" in refused(
        "mine", encoder, out, "--data", data, "--relative-margin", -1
    )
    assert "prompt name 'x'" in refused(
        "mine", encoder, out, "--data", data, "--query-prompt-name", "x"
    )
    assert "no model folder" in refused("mine", tmp_path / "no-model", out, "--data", data)
    assert ".jsonl files" in refused("mine", encoder, tmp_path / "out.txt", "--data", data)
    assert not out.exists()


def test_mistakes_of_score_are_one_line(encoder, reranker, tmp_path):
    source, out = tmp_path / "mined.jsonl", tmp_path / "out.jsonl"
    assert "expected a .jsonl file" in refused("score", reranker, source, out)
    source.write_text(json.dumps({"query": "q", "pos": []}))
    assert "mined.jsonl line 1: has no positive" in refused("score", reranker, source, out)
    source.write_text(json.dumps({"query": "q", "pos": ["p"]}))
    assert "scores no pairs" in refused("score", encoder, source, out)
    assert "no model folder" in refused("score", tmp_path / "no-model", source, out)


def test_a_missing_extra_is_named(encoder, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused("mine", encoder, tmp_path / "out.jsonl", "--data", data, code=4)
    assert 'pip install "effir-integrations[train]"' in message


@pytest.mark.parametrize("verb", ["mine", "score"])
def test_help_teaches(verb):
    result = effir(verb, "--help")
    assert result.exit_code == 0
    assert f"effir {verb} MODEL" in result.output
