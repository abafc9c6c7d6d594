"""A model that is not there is refused by every verb in the same sentence."""

from __future__ import annotations

import pytest
from verbs import refused

MISTYPED = "models/mini-hlf"


@pytest.mark.parametrize(
    "command",
    [
        ["analyze", MISTYPED, "--out", "run"],
        ["compress", MISTYPED, "out", "--drop-mlp", 1],
        ["encode", MISTYPED, "--data", "corpus.jsonl", "--out", "out.npy"],
        ["evaluate", MISTYPED, "--data", "nowhere/data"],
        ["compare", MISTYPED, "effir-mini", "--data", "nowhere/data"],
        ["finetune", MISTYPED, "out", "--train", "train.jsonl"],
        ["distill", "effir-mini", "out", "--teacher", MISTYPED],
        ["mine", MISTYPED, "out.jsonl", "--data", "nowhere/data"],
        ["score", MISTYPED, "train.jsonl", "out.jsonl"],
        ["show", MISTYPED],
    ],
    ids=lambda command: command[0],
)
def test_every_verb_refuses_a_mistyped_folder_in_one_sentence(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "train.jsonl").write_text('{"query": "w1", "pos": ["w2"], "neg": ["w3"]}')
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": "w1"}')
    line = refused(*command)
    assert f"there is no folder {tmp_path / MISTYPED}, and the hub could not be asked" in line
    assert f"for a model {MISTYPED}" in line
