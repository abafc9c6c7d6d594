"""The demo runs end to end, again after an interruption, and never over somebody's folder."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import fresh
import pytest
from rich.console import Console
from tiny import save_bare

from effir_integrations import load
from effir_integrations.data.calibration import load_calibration
from effir_integrations.demo.demo import (
    COARSE_TO_FINE,
    DROP_ONLY,
    DROPPED_MLPS,
    KEEP_NEURONS,
    _settings,
    ask_demo,
    calibration_texts,
    demo,
)
from effir_integrations.demo.questions import ANSWERS, Answer, Answered, Asked, answers_table, ask
from effir_integrations.encoder.history import read_history
from effir_integrations.encoder.mini import MINI, mini_path

DOCUMENTS = {
    "shutil.rmtree": "shutil.rmtree rmtree(path)\nIf ignore_errors is set, errors are ignored.",
    "tempfile.mkdtemp": "tempfile.mkdtemp mkdtemp(suffix)\nThe directory is readable by its owner.",
    "csv.Dialect": "csv.Dialect class Dialect\nThis must be subclassed. It describes a format.",
    "threading.Event": "threading.Event class Event\nEvents manage a flag.",
    "zipfile": "zipfile Opens archives.",
}
QUESTIONS = ("What removes a directory?", "How is a CSV file described?")
PROMPTS = {"query": "w50 ", "document": "w51 "}
SESSION = """
import json, sys
from pathlib import Path
from effir_integrations.demo.questions import ask
model, work, documents, questions = json.loads(sys.argv[1])
asked = ask(Path(model), documents, Path(work), questions)
print(json.dumps(asked.to_json()))
"""


def test_the_demo_compresses_and_compares_without_any_download(tmp_path):
    model = save_bare("bert", tmp_path / "base", intermediate_size=128)
    results = demo(str(model), tmp_path / "demo")
    assert [os.path.basename(x.model) for x in results] == ["base", DROP_ONLY, COARSE_TO_FINE]
    assert results[0].documents > 1500
    full, *pruned = (result.non_embedding_parameters for result in results)
    assert all(parameters < full for parameters in pruned)
    table = json.loads((tmp_path / "demo" / "table.json").read_text())
    assert [row["non_embedding_parameters"] for row in table] == [full, *pruned]
    widths = read_history(tmp_path / "demo" / COARSE_TO_FINE)["mlp_widths"]
    assert sorted(widths) == [0, 0, 64, 64]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="not empty"):
        demo("unused", tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


def test_our_own_model_loses_what_is_said_and_others_the_same_share(tmp_path):
    mini = _settings(load(MINI))
    assert [x.drop_mlp for x in mini.values()] == [DROPPED_MLPS, DROPPED_MLPS]
    assert [x.keep_neurons for x in mini.values()] == [None, KEEP_NEURONS]
    two = load(save_bare("bert", tmp_path / "two", num_hidden_layers=2))
    assert [x.drop_mlp for x in _settings(two).values()] == [1, 1]
    one = load(save_bare("bert", tmp_path / "one", num_hidden_layers=1))
    with pytest.raises(ValueError, match="1 MLPs, too few"):
        _settings(one)


def test_texts_carry_the_prompts_they_are_encoded_with(tmp_path):
    encoder = load(save_bare("bert", tmp_path / "model"), prompts=PROMPTS)
    shipped = load_calibration().texts
    calibration = calibration_texts(encoder, DOCUMENTS.values())
    assert calibration == [*shipped, *(f"w51 {text}" for text in DOCUMENTS.values())]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What a process of its own prints, since Pyserini starts a Java in it."""
    if find_spec("pyserini") is None or find_spec("llama_index.vector_stores.faiss") is None:
        pytest.skip("needs the [demo] extra")
    work = tmp_path_factory.mktemp("asked") / "indexes"
    given = json.dumps([str(mini_path()), str(work), DOCUMENTS, QUESTIONS])
    done = fresh.run(["-c", SESSION, given])
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, work


def test_the_libraries_answer_alike_and_only_json_is_printed(session):
    printed, work = session
    asked = json.loads(printed)
    assert asked["missing"] == {}
    assert [x["question"] for x in asked["questions"]] == list(QUESTIONS)
    for answered in asked["questions"]:
        assert list(answered["answers"]) == ["Sentence Transformers", "Pyserini", "LlamaIndex"]
        assert answered["agree"]
        first, *others = answered["answers"].values()
        assert len(first) == ANSWERS
        for other in others:
            scores = [[x["score"] for x in found] for found in (first, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert (work / "pyserini.log").is_file()


def test_a_library_that_is_not_there_is_named_with_its_extra(tmp_path, monkeypatch):
    for package in ("pyserini", "llama_index.vector_stores.faiss"):
        monkeypatch.setitem(sys.modules, package, None)
    asked = ask(Path(mini_path()), DOCUMENTS, tmp_path / "work", QUESTIONS)
    assert list(asked.questions[0].answers) == ["Sentence Transformers"]
    for library, extra in (("Pyserini", "pyserini"), ("LlamaIndex", "llama-index")):
        assert f'pip install "effir-integrations[{extra}]"' in asked.missing[library]
        assert "\n" not in asked.missing[library]
    assert "Pyserini was not asked" in shown(asked)


def shown(asked):
    console = Console(width=120, record=True, file=open(os.devnull, "w"))
    console.print(answers_table(asked))
    return console.export_text()


def answered(*orders):
    libraries = ("Sentence Transformers", "Pyserini", "LlamaIndex")
    answers = {
        library: tuple(Answer(name=name, text=f"about [{name}]", score=0.5) for name in order)
        for library, order in zip(libraries, orders, strict=True)
    }
    return Answered(question="What [is] it?", answers=answers)


def test_answers_that_differ_are_shown_and_said_to_differ():
    same, other = answered("ab", "ab", "ab"), answered("ab", "ab", "ba")
    assert same.agree and not other.agree
    text = shown(Asked(questions=(same, other), missing={}))
    assert text.count("What [is] it?") == 2
    assert "the same answers in Sentence Transformers, Pyserini, LlamaIndex" in text
    assert "not the same answers" in text
    assert text.count("about [b]") == 6


def test_nothing_to_ask_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 documents and 1 questions"):
        ask(Path(mini_path()), {}, tmp_path, ["What?"])
    with pytest.raises(FileNotFoundError):
        ask_demo(tmp_path / "nothing")


@pytest.mark.slow
def test_the_small_decoder_keeps_its_quality_and_gains_speed(tmp_path):
    full, _, pruned = demo(out=tmp_path / "demo")
    assert full.model == MINI
    assert pruned.non_embedding_parameters <= 0.6 * full.non_embedding_parameters
    assert pruned.metrics["nDCG@10"] >= 0.97 * full.metrics["nDCG@10"]
    assert pruned.documents_per_second >= 1.4 * full.documents_per_second
