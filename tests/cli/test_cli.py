"""The verbs end to end on a tiny model, and one plain line for every bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import fresh
import numpy as np
import pytest
import transformers
from sentence_transformers import SentenceTransformer
from tiny import save_bare
from verbs import effir, effir_json, refused

FIGURES = {"nDCG@10", "R@100", "RR@10"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny decoder with MLPs wide enough to round their widths to 8."""
    return save_bare("llama", tmp_path_factory.mktemp("base") / "tiny-llama")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Forty texts of words that the tiny tokenizer knows."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = [" ".join(f"w{(row * 7 + word) % 60}" for word in range(20)) for row in range(40)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A BEIR folder of thirty documents, ten of which are asked for."""
    folder = tmp_path_factory.mktemp("beir") / "mini"
    (folder / "qrels").mkdir(parents=True)
    rows = [f"w{row} w{row + 20} w{row + 25}" for row in range(30)]
    corpus = [json.dumps({"_id": f"d{i}", "title": "", "text": x}) for i, x in enumerate(rows)]
    queries = [json.dumps({"_id": f"q{i}", "text": x}) for i, x in enumerate(rows[:10])]
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(10))]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels))
    return folder


def test_step_by_step_from_analyze_to_evaluate(base, texts, data, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    report = effir_json("analyze", base, "--out", run, "--calibration", texts)
    assert len(report["mlp"]) == 4
    planned = effir_json("drop", run, "--mlp", 1)
    assert len(planned["drop_mlp"]) == 1
    planned = effir_json(
        "reconstruct", run, "--keep-neurons", 0.5, "--multiple-of", 8, "--calibration", texts
    )
    assert sum(planned["mlp_widths"]) == 3 * 24
    exported = effir_json("export", run, out)
    shown = effir_json("show", out)
    assert shown["mlp_widths"] == exported["mlp_widths"] == planned["mlp_widths"]
    assert shown["parameters"] == exported["parameters"] < planned["parameters_before"]
    result = effir_json("evaluate", out, "--data", data)
    assert set(result["metrics"]) == FIGURES
    assert result["parameters"] == shown["parameters"]


def test_compress_in_one_line_gives_an_ordinary_folder(base, texts, tmp_path):
    out = tmp_path / "out"
    result = effir(
        "compress", base, out, "--keep-neurons", 0.5, "--multiple-of", 8, "--calibration", texts
    )
    assert result.exit_code == 0, result.output
    assert "192 -> 96" in result.stdout
    assert str(out) in result.stdout
    assert SentenceTransformer(str(out), device="cpu").encode(["w1"]).shape == (1, 32)


def test_compress_from_yaml_does_the_same_as_from_options(base, texts, tmp_path):
    settings = ["--drop-mlp", 1, "--keep-neurons", 0.5, "--multiple-of", 8, "--calibration", texts]
    effir_json("compress", base, tmp_path / "options", *settings)
    (tmp_path / "compress.yaml").write_text(
        f"model: {base}\nout: {tmp_path / 'yaml'}\ndrop-mlp: 1\nkeep-neurons: 0.5\n"
        f"multiple-of: 8\ncalibration: {texts}\n"
    )
    effir_json("compress", "--config", tmp_path / "compress.yaml")
    models = [SentenceTransformer(str(tmp_path / name)) for name in ("options", "yaml")]
    assert np.array_equal(*(model.encode(["w1 w2", "w3"]) for model in models))


@pytest.mark.parametrize(("choice", "expected"), [("auto", 1.0), ("yes", 0.0)])
def test_documents_numbered_as_their_queries_are_dropped_on_demand(
    base, tmp_path, choice, expected
):
    data = tmp_path / "numbered"
    (data / "qrels").mkdir(parents=True)
    rows = "".join(f'{{"_id": "{row}", "text": "w{row} w{row + 9}"}}\n' for row in range(9))
    for name in ("corpus", "queries"):
        (data / f"{name}.jsonl").write_text(rows)
    (data / "qrels" / "test.tsv").write_text("".join(f"{row}\t{row}\t1\n" for row in range(9)))
    options = ["--data", data, "--drop-same-id", choice]
    assert effir_json("evaluate", base, *options)["metrics"]["R@100"] == expected
    (row,) = effir_json("compare", base, *options)
    assert row["metrics"]["R@100"] == expected
    message = refused("compare", base, "--data", data, "--drop-same-id", "maybe")
    assert "drop_same_id='maybe' is none of auto, yes, no" in message


def test_compare_lists_every_model_with_the_promised_keys(base, data, tmp_path):
    effir_json("compress", base, tmp_path / "out", "--last-blocks", 1)
    results = effir_json("compare", base, tmp_path / "out", "--data", data)
    assert len(results) == 2
    for result in results:
        promised = {"model", "data", "metrics", "parameters", "bytes"}
        promised |= {"documents_per_second", "queries_per_second"}
        assert promised <= set(result)
        assert set(result["metrics"]) == FIGURES
    assert results[1]["parameters"] < results[0]["parameters"]


def test_a_dry_run_prints_the_plan_and_writes_nothing(base, texts, tmp_path):
    effir("analyze", base, "--out", tmp_path / "run", "--calibration", texts, "--quiet")
    result = effir("drop", tmp_path / "run", "--mlp", 2, "--dry-run")
    assert result.exit_code == 0
    assert "dropped" in result.stdout
    assert os.listdir(tmp_path / "run") == ["importance.json"]


def test_a_finished_analysis_is_not_repeated_and_another_is_refused(base, texts, tmp_path):
    run = tmp_path / "run"
    effir("analyze", base, "--out", run, "--calibration", texts, "-q")
    before = (run / "importance.json").stat().st_mtime_ns
    effir("analyze", base, "--out", run, "--calibration", texts, "-q")
    assert (run / "importance.json").stat().st_mtime_ns == before
    line = refused("analyze", base, "--out", run)
    assert "choose another --out, or repeat (--force)" in line


def test_quiet_prints_nothing(base, tmp_path):
    result = effir("compress", base, tmp_path / "out", "--last-blocks", 1, "--quiet")
    assert (result.exit_code, result.stdout) == (0, "")


def test_show_draws_the_layers(base, tmp_path):
    effir("compress", base, tmp_path / "out", "--drop-mlp", 2, "-q")
    result = effir("show", tmp_path / "out")
    assert "pruned from tiny-llama" in result.stdout
    assert result.stdout.count("dropped") == 2


def test_the_module_is_the_command(base):
    done = fresh.run(["-m", "effir_integrations", "show", base, "--json"], check=True)
    assert json.loads(done.stdout)["mlp_widths"] == [48] * 4


def t5_folder(tmp_path):
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1}
    config = transformers.T5Config(**sizes, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_an_unknown_family_is_refused(tmp_path):
    line = refused("compress", t5_folder(tmp_path), tmp_path / "out")
    assert "'t5' is not supported" in line
    assert "qwen3" in line


def test_a_plan_of_another_base_is_refused(base, tmp_path):
    other = save_bare("llama", tmp_path / "other", seed=3)
    effir("drop", base, "--mlp-layers", "1", "--out", tmp_path / "run", "-q")
    for way in ([], ["--from-disk"]):
        line = refused("export", tmp_path / "run", tmp_path / "out", "--model", other, *way)
        assert "made for" in line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mlp-layers", "4"], "layer 4 is out of range: the model has 4 layers"),
        (["--mlp-layers", "2,2"], "layer 2 is named twice"),
        (["--mlp-layers", "two"], "are no list such as 3,5-8"),
        (["--attention-layers", "0-3"], "would leave none"),
        (["--params", "lots"], "is no number of parameters"),
        (["--keep-params", "1.5"], "must lie between 0 and 1"),
        (["--mlp", "1"], "run `effir analyze` first"),
        ([], "nothing to drop"),
    ],
)
def test_impossible_drops_are_refused(base, tmp_path, options, words):
    assert words in refused("drop", base, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_layer_that_is_already_dropped_is_refused(base, tmp_path):
    effir("drop", base, "--mlp-layers", 3, "--out", tmp_path / "first", "-q")
    effir("export", tmp_path / "first", tmp_path / "once", "-q")
    line = refused("drop", tmp_path / "once", "--mlp-layers", "3", "--out", tmp_path / "run")
    assert "layer 3 has no MLP: it was dropped before; choose from [0, 1, 2]" in line


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.2", "nan"])
def test_a_share_outside_0_and_1_is_refused_before_loading(tmp_path, share):
    line = refused("compress", tmp_path / "absent", tmp_path / "out", f"--keep-neurons={share}")
    assert "keep_neurons" in line


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "empty"),
        ("blank.txt", b"\n  \n\n", "text"),
        ("binary.txt", b"\x89PNG\r\n\x00\x00\xff\xfe", "UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\nnot json\n', "line 2"),
        ("keys.jsonl", b'{"body": "a"}\n', "line 1"),
    ],
)
def test_calibration_files_that_will_not_do_are_refused(base, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    line = refused("compress", base, tmp_path / "out", "--calibration", tmp_path / name)
    assert name in line
    assert words in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("corpus.jsonl", '{"_id": "d0", "text": "a"}\n{"_id": ', "line 2"),
        ("corpus.jsonl", '{"text": "a"}', "_id"),
        ("corpus.jsonl", '{"_id": "d0", "text": "a"}\n{"_id": "d0", "text": "b"}', "d0"),
        ("queries.jsonl", '{"_id": "q0", "text": "a"}\n{"_id": "q0", "text": "b"}', "q0"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\tghost\t1", "ghost"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nghost\td0\t1", "ghost"),
    ],
)
def test_data_that_will_not_do_is_refused(base, data, tmp_path, file, content, words):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / file).write_text(content)
    assert words in refused("evaluate", base, "--data", tmp_path / "data")


def test_a_truncated_checkpoint_is_refused(base, tmp_path):
    shutil.copytree(base, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for verb in (["compress", tmp_path / "cut", tmp_path / "out"], ["show", tmp_path / "cut"]):
        assert "is truncated" in refused(*verb)


def test_a_missing_shard_is_refused(base, tmp_path):
    model = transformers.AutoModel.from_pretrained(base)
    model.save_pretrained(tmp_path / "cut", max_shard_size="20KB")
    next((tmp_path / "cut").glob("model-00002*")).unlink()
    assert "lacks 1 of" in refused("compress", tmp_path / "cut", tmp_path / "out")


def test_a_full_disk_is_refused_before_writing(base, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    line = refused("compress", base, tmp_path / "out", "--last-blocks", 1, code=4)
    assert "MB are needed but only" in line
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_refused_before_loading(base, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    line = refused("compress", base, tmp_path / "out", "--last-blocks", 1)
    assert "--force" in line


def test_settings_given_twice_or_not_at_all_are_refused(base, tmp_path):
    (tmp_path / "c.yaml").write_text("model: a\nout: b\nkeep-neurones: 0.5\n")
    assert "unknown setting 'keep_neurones'" in refused(
        "compress", "-q", "--config", tmp_path / "c.yaml"
    )
    assert "given twice" in refused("compress", base, "--config", tmp_path / "c.yaml")
    assert "name the model" in refused("compress")


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("drop-mlp: 1.5", "drop_mlp=1.5"),
        ("calibration: [a, b]", "calibration=['a', 'b']"),
        ("keep-neurons: .nan", "keep_neurons=nan"),
        ("seed: true", "seed=True"),
        ("model: [a]", "model=['a']"),
    ],
)
def test_a_yaml_value_of_another_type_is_refused_before_the_model_is_read(line, field, tmp_path):
    model = "" if line.startswith("model") else "model: absent/folder\n"
    (tmp_path / "c.yaml").write_text(f"{model}out: {tmp_path / 'out'}\n{line}\n")
    said = refused("compress", "-q", "--config", tmp_path / "c.yaml")
    assert "c.yaml: " in said
    assert field in said


def test_a_damaged_config_is_refused_with_its_name(base, data, tmp_path):
    folder = shutil.copytree(base, tmp_path / "damaged")
    config = json.loads((folder / "config.json").read_text())
    for text in ('{"model', json.dumps({**config, "hidden_size": "wide"})):
        (folder / "config.json").write_text(text)
        for verb in (
            ("compress", folder, tmp_path / "out", "--last-blocks", 1),
            ("encode", folder, "--data", data / "corpus.jsonl", "--out", tmp_path / "o.npy"),
            ("evaluate", folder, "--data", data),
        ):
            assert "damaged/config.json" in refused(*verb)
        assert os.listdir(tmp_path) == ["damaged"]


def test_debug_shows_the_traceback(tmp_path):
    result = effir("compress", tmp_path / "absent", tmp_path / "out", "--debug")
    assert isinstance(result.exception, FileNotFoundError)


def test_an_interrupted_run_ends_with_one_line_and_leaves_nothing(base, tmp_path):
    """The interrupt comes while the corpus of a calibration fills memory: mid-work."""
    texts = tmp_path / "many.txt"
    texts.write_text("w1 w2 w3 w4 w5 w6 w7 w8\n" * 200_000)
    command = ["-m", "effir_integrations", "compress", base, tmp_path / "out"]
    command += ["--calibration", texts, "--texts", 200_000, "--multiple-of", 8]
    process = fresh.Fresh(command)
    time.sleep(8)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    status, stderr = process.wait(120), process.stderr
    assert status == 130, stderr
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["many.txt"]


def test_nothing_but_what_is_worth_saying_is_said_on_standard_error(base, tmp_path):
    line = ["-m", "effir_integrations", "compress", base, tmp_path / "out"]
    done = fresh.run([*line, "--last-blocks", 1, "--json"], check=True)
    assert json.loads(done.stdout)["out"] == str(tmp_path / "out")
    assert done.stderr == ""
