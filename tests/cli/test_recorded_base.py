"""A base that a folder records is found and checked again, never followed by its name alone."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny import WORDS, save_bare
from verbs import effir_json, refused

QUICK = ["--steps", 2, "--batch-size", 4, "--trains", "lora", "--rank", 4]
GATES = ["--paper", "--steps", 2, "--batch-size", 4, "--negatives", 0, "--multiple-of", 8]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A working folder in which a base was compressed, and planned on, by a relative name."""
    work = tmp_path_factory.mktemp("work")
    save_bare("llama", work / "models" / "base")
    (work / "texts.txt").write_text("\n".join(WORDS[:12]))
    lines = [json.dumps({"query": word, "pos": [word]}) for word in WORDS[:12]]
    (work / "train.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        effir_json("compress", "models/base", "out/small", "--drop-mlp", 1, "--dtype", "fp16")
        effir_json("analyze", "models/base", "--out", "run", "--texts", 4)
        effir_json("drop", "run", "--mlp", 1)
    return work


@pytest.fixture
def work(made, tmp_path, monkeypatch):
    copy = tmp_path / "work"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def elsewhere(work, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def replace_base(work):
    shutil.rmtree(work / "models" / "base")
    save_bare("llama", work / "models" / "base", seed=1)


def test_distill_refuses_another_model_at_the_recorded_path(work):
    distill = ["distill", "out/small", "healed", "--texts", "texts.txt", *QUICK]
    replace_base(work)
    line = refused(*distill)
    assert "models/base are not those of the base that out/small was made from" in line
    assert "--teacher" in line
    assert not (work / "healed.training").exists()
    made = effir_json(*distill, "--teacher", "models/base")
    assert made["data"]["teacher"] == "models/base"


def test_a_relative_base_is_found_from_another_working_folder(work, elsewhere):
    options = ["--texts", work / "texts.txt", *QUICK]
    made = effir_json("distill", work / "out" / "small", "healed", *options)
    assert made["data"]["teacher"] == str(work / "models" / "base")
    effir_json("reconstruct", work / "run", "--multiple-of", 8, "--texts", 8)
    effir_json("export", work / "run", "exported")


def test_a_base_that_is_gone_is_one_sentence_that_names_the_option(work, elsewhere):
    moved = work.rename(work.with_name("moved"))
    shutil.move(moved / "models" / "base", moved / "other")
    run, train = moved / "run", moved / "train.jsonl"
    verbs = {
        "--teacher": [["distill", moved / "out" / "small", "x"]],
        "--model": [
            ["export", run, "x"],
            ["export", run, "x", "--from-disk"],
            ["reconstruct", run],
            ["finetune", run, "x", "--train", train, *QUICK],
            ["slim", run, "--train", train, *GATES],
            ["distill", run, "x"],
        ],
    }
    for option, commands in verbs.items():
        for command in commands:
            line = refused(*command)
            assert "records the base 'models/base'" in line and f"({option})" in line
    texts = ["--texts", moved / "texts.txt", *QUICK]
    effir_json("distill", run, "x", "--model", moved / "other", *texts)


def test_a_report_of_another_model_at_the_same_path_is_not_passed_off_as_its_own(work):
    analyze = ["analyze", "models/base", "--out", "run", "--texts", 4]
    effir_json(*analyze)
    replace_base(work)
    assert "run holds the importance of models/base" in refused(*analyze)


def test_slimmed_neurons_are_not_passed_off_as_those_of_another_base(work):
    slim = ["slim", "run", "--train", "train.jsonl", *GATES]
    effir_json(*slim)
    effir_json(*slim)
    replace_base(work)
    assert "the weights of models/base differ" in refused(*slim)


def test_a_base_that_slimming_trained_is_kept_however_the_run_folder_is_spelled(work, elsewhere):
    slim = ["slim", work / "run", "--train", work / "train.jsonl", *GATES, "--train-base"]
    effir_json(*slim)
    link = work.with_name("link")
    link.symlink_to(work / "run")
    assert "choose another run folder" in refused("slim", link, *slim[2:], "--force")


def test_a_finished_training_of_another_model_is_not_passed_off_as_this_one(work):
    finetune = ["finetune", "models/base", "tuned", "--train", "train.jsonl", *QUICK]
    finetune += ["--negatives", 0]
    effir_json(*finetune)
    effir_json(*finetune)
    replace_base(work)
    assert "tuned is not empty" in refused(*finetune)
