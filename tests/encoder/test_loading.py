"""A model that cannot be read is said to be so by what it is, whoever asks for it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from tiny import save_bare
from transformers import PreTrainedModel

from effir_integrations import load
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.encoder.model_files import identify_files
from effir_integrations.encoder.sources import _hub_answer, find_architecture
from effir_integrations.evaluation.compare import compare
from effir_integrations.evaluation.evaluate import evaluate
from effir_integrations.training.score import score


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = '{"query": "w1", "pos": ["w2"], "neg": ["w3"]}'
    (tmp_path / "train.jsonl").write_text(line)
    return tmp_path


@pytest.mark.parametrize(
    "call",
    [
        load,
        find_architecture,
        identify_files,
        LazyEncoder,
        lambda name: evaluate(name, "nowhere/data"),
        lambda name: compare([name, "effir-mini"], "nowhere/data"),
        lambda name: score(name, "train.jsonl", "out.jsonl"),
    ],
    ids=["load", "find_architecture", "identify_files", "adapter", "evaluate", "compare", "score"],
)
@pytest.mark.parametrize("name", ["models/mini-hlf", "mini-hlf"])
def test_a_mistyped_folder_names_the_place_looked_at_and_the_hub(here, call, name):
    with pytest.raises(FileNotFoundError) as raised:
        call(name)
    message = str(raised.value)
    assert "\n" not in message and "connect" not in message
    assert f"there is no folder {here / name}, and the hub could not be asked" in message
    assert f"for a model {name}" in message


@pytest.mark.parametrize(
    ("cause", "answer"),
    [
        (LocalEntryNotFoundError("offline"), "the hub could not be asked for a model a/b"),
        (RepositoryNotFoundError.__new__(RepositoryNotFoundError), "no model a/b on the hub"),
        (None, r"a/b on the hub cannot be read \(access is gated\)"),
    ],
)
def test_the_hub_is_blamed_for_what_it_answered_alone(cause, answer):
    error = OSError("access\n is gated")
    error.__cause__ = cause
    assert re.match(answer, _hub_answer("a/b", error))


def test_a_name_that_the_hub_cannot_have_says_where_it_was_looked_for(here):
    for name in ("./mini-hlf", "a/b/c", "a b"):
        with pytest.raises(FileNotFoundError, match="is no model folder") as raised:
            load(name)
        assert f"looked at {Path(here, name)}" in str(raised.value)


def test_threads_that_load_at_a_time_leave_transformers_as_it_was(tmp_path):
    folder = save_bare("llama", tmp_path / "model")
    tie_weights = PreTrainedModel.tie_weights
    try:
        with ThreadPoolExecutor(8) as pool:
            assert len(list(pool.map(load, [folder] * 24))) == 24
        assert PreTrainedModel.tie_weights is tie_weights
    finally:
        PreTrainedModel.tie_weights = tie_weights
