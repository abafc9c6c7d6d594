"""The verb that encodes a corpus, end to end on a tiny model, and one plain line for mistakes."""

from __future__ import annotations

import json
import os
import signal
import time

import fresh
import numpy as np
import pytest
from tiny import save_bare
from verbs import effir, effir_json, refused

from effir_integrations import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Sentence Transformers folder with a prompt for each role."""
    folder = tmp_path_factory.mktemp("base")
    prompts = {"query": "w50 w51", "document": "w52"}
    encoder = load(save_bare("bert", folder / "bare"), device="cpu", prompts=prompts)
    encoder.save_pretrained(str(folder / "tiny-bert"))
    return folder / "tiny-bert"


@pytest.fixture
def data(tmp_path):
    """A BEIR folder of twenty documents and four queries."""
    folder = tmp_path / "mini"
    folder.mkdir()
    rows = [f"w{row} w{row + 20} w{row + 25}" for row in range(20)]
    corpus = [json.dumps({"_id": f"d{i}", "title": "w9", "text": x}) for i, x in enumerate(rows)]
    queries = [json.dumps({"_id": f"q{i}", "text": x}) for i, x in enumerate(rows[:4])]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text("\n".join(queries))
    return folder


FP32 = ["--precision", "fp32", "--device", "cpu"]


def test_documents_are_the_default_and_queries_a_role(model, data, tmp_path):
    encoder = load(model, device="cpu", precision="fp32")
    documents, queries = tmp_path / "documents.npy", tmp_path / "queries.npy"

    result = effir_json("encode", model, "--data", data, "--out", documents, *FP32)
    assert (result["rows"], result["dimension"], result["resumed_from"]) == (20, 32, 0)
    assert result["path"] == str(documents)
    assert result["ids_path"] == str(tmp_path / "documents.ids.txt")
    assert result["texts_per_second"] > 0
    effir_json("encode", model, "--data", data, "--out", queries, "--role", "query", *FP32)

    texts = [f"w{row} w{row + 20} w{row + 25}" for row in range(20)]
    expected = encoder.encode([f"w9 {text}" for text in texts], prompt_name="document")
    assert np.array_equal(np.load(documents), expected)
    assert np.array_equal(np.load(queries), encoder.encode(texts[:4], prompt_name="query"))
    ids = (tmp_path / "documents.ids.txt").read_text().split()
    assert ids == [f"d{row}" for row in range(20)]


def test_every_option_reaches_the_vectors(model, data, tmp_path):
    out = tmp_path / "v.npy"
    options = ["--prompt", "w7", "--truncate-dim", 6, "--max-length", 3, "--normalize"]
    effir_json("encode", model, "--data", data / "queries.jsonl", "--out", out, *options, *FP32)
    encoder = load(model, device="cpu", precision="fp32", max_length=3)
    texts = [f"w{row} w{row + 20} w{row + 25}" for row in range(4)]
    kept = {"prompt": "w7", "truncate_dim": 6, "normalize_embeddings": True}
    assert np.array_equal(np.load(out), encoder.encode(texts, **kept))

    command = ["encode", model, "--data", data, "--out"]
    effir_json(*command, tmp_path / "bf16.npy", "--precision", "bf16")
    effir_json(*command, tmp_path / "fp32.npy", *FP32)
    exact, rounded = (np.load(tmp_path / f"{name}.npy") for name in ("fp32", "bf16"))
    assert not np.array_equal(exact, rounded)
    assert np.allclose(exact, rounded, atol=0.05)


def test_the_result_is_one_line_and_quiet_is_none(model, data, tmp_path):
    out = tmp_path / "v.jsonl"
    result = effir("encode", model, "--data", data, "--out", out, "--window", 8)
    assert result.exit_code == 0, result.output
    assert f"written to {out}: 20 texts x 32 dimensions" in result.stdout
    assert "texts/s" in result.stdout
    assert len(out.read_text().splitlines()) == 20
    result = effir("encode", model, "--data", data, "--out", out, "--quiet", "--force")
    assert (result.exit_code, result.stdout) == (0, "")


def test_parquet_in_and_parquet_out(model, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    source, out = tmp_path / "corpus.parquet", tmp_path / "v.parquet"
    parquet.write_table(pyarrow.table({"id": [7, 8], "text": ["w1", "w2 w3"]}), source)
    assert effir_json("encode", model, "--data", source, "--out", out)["ids_path"] is None
    assert parquet.read_table(out)["docid"].to_pylist() == ["7", "8"]


def test_bad_input_is_refused_before_the_model_is_looked_for(data, tmp_path):
    absent, out = tmp_path / "no-model", tmp_path / "v.npy"
    (tmp_path / "there.npy").write_text("mine")

    def refusal(corpus, out, *options):
        return refused("encode", absent, "--data", corpus, "--out", out, *options)

    assert "nothing is there" in refusal(tmp_path / "no.jsonl", out)
    assert "expected a JSON Lines file, nothing is there" in refusal(tmp_path, out)
    assert "ends in .jsonl or .parquet" in refusal(tmp_path / "corpus.tsv", out)
    assert "written to .npy, .parquet, .jsonl" in refusal(data, tmp_path / "v.bin")
    message = refusal(data, tmp_path / "there.npy")
    assert "there.npy exists; choose another file, or replace it (--force)" in message
    (tmp_path / "bad.jsonl").write_text('{"text": "w1"}\n')
    assert "bad.jsonl line 1: no id" in refusal(tmp_path / "bad.jsonl", out)
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "empty.jsonl holds no text" in refusal(tmp_path / "empty.jsonl", out)
    assert "device 'abacus' cannot be used" in refusal(data, out, "--device", "abacus")
    assert "no model folder" in refusal(data, out)
    assert not out.exists()


def test_mistakes_in_options_are_one_line(model, data, tmp_path):
    out = tmp_path / "v.npy"
    message = refused("encode", model, "--data", data, "--out", out, "--precision", "fp31")
    assert "precision 'fp31' is not known" in message
    message = refused("encode", model, "--data", data, "--out", out, "--truncate-dim", 99)
    assert "truncate_dim=99" in message
    assert sorted(os.listdir(tmp_path)) == ["mini"]


def test_a_bad_line_is_named_and_the_same_command_goes_on(model, data, tmp_path):
    corpus, out = data / "corpus.jsonl", tmp_path / "v.npy"
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join([*lines[:17], "{broken", *lines[17:]]))
    command = ["encode", model, "--data", data, "--out", out, "--window", 8, *FP32]
    assert "corpus.jsonl line 18: not JSON" in refused(*command)
    corpus.write_text("\n".join(lines))
    assert "--force" in refused(*command, "--prompt", "w3")
    assert effir_json(*command)["resumed_from"] == 16
    result = effir("encode", model, "--data", data, "--out", out, "--force")
    assert "from an earlier run" not in result.stdout


def test_interrupted_is_one_line_and_the_same_command_goes_on(model, tmp_path):
    corpus, out = tmp_path / "corpus.jsonl", tmp_path / "v.npy"
    records = ({"_id": f"d{row}", "text": f"w{row % 60} w1"} for row in range(60_000))
    corpus.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = ["encode", str(model), "--data", str(corpus), "--out", str(out), *FP32]
    command += ["--window", "64"]
    process = fresh.Fresh(["-m", "effir_integrations", *command])
    state = tmp_path / ".v.npy.partial" / "state.json"
    deadline = time.monotonic() + 120
    while not state.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    status, errors = process.wait(60), process.stderr
    assert status == 130, errors
    assert errors.splitlines()[-1].startswith("effir: interrupted")
    assert not out.exists()
    done = json.loads(state.read_text())["rows"]
    assert done > 0
    # other options than --window would be refused, and the rest need not be encoded here
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[: done + 10]))
    assert effir_json(*command)["resumed_from"] == done


def test_help_teaches():
    result = effir("encode", "--help")
    assert result.exit_code == 0
    assert "effir encode MODEL --data beir/scifact --out vectors.npy" in result.output


@pytest.mark.slow
def test_a_cluster_on_this_machine_writes_shards_with_the_same_vectors(model, data, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "shards"
    options = ["--role", "query", "--ray", "local", "--actors", 1, "--precision", "fp32"]
    result = effir_json("encode", model, "--data", data, "--out", out, *options)
    assert (result["texts"], result["dimension"], result["shards"]) == (4, 32, 1)
    table = parquet.read_table(out / "part-000000.parquet").to_pydict()
    assert table["docid"] == ["q0", "q1", "q2", "q3"]
    texts = [f"w{row} w{row + 20} w{row + 25}" for row in range(4)]
    expected = load(model, device="cpu").encode(texts, prompt_name="query")
    np.testing.assert_allclose(np.array(table["vector"]), expected, atol=1e-5)


def test_what_only_one_of_machine_and_cluster_can_do_is_refused(model, data, tmp_path):
    command = ["encode", model, "--data", data, "--out", tmp_path / "v.npy"]
    assert "--actors 2 is for --ray" in refused(*command, "--actors", 2)
    on_ray = ["--ray", "local", "--device", "cpu"]
    assert "--device is chosen by the cluster" in refused(*command, *on_ray)
