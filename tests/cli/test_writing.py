"""What the verbs do with a folder that is there already, or that another one writes."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from tiny import save_bare
from verbs import effir, refused

from effir_integrations.files.locks import locked


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder that holds a tiny base and notes."""
    folder = tmp_path_factory.mktemp("models") / "m"
    save_bare("bert", folder / "base")
    (folder / "notes.txt").write_text("mine")
    return folder


VERBS = {
    "compress": "compress {base} {out} --force",
    "export": "export {run} {out} --force",
    "export from disk": "export {run} {out} --force --from-disk",
    "convert": "convert {base} {out} --to onnx --force",
    "finetune": "finetune {base} {out} --train {train} --negatives 1 --force",
    "distill": "distill {base} {out} --texts {texts} --force",
}


@pytest.fixture
def command(model, tmp_path):
    """Return the words of a verb."""
    assert (
        effir("drop", model / "base", "--out", tmp_path / "run", "--mlp-layers", 1).exit_code == 0
    )
    train = tmp_path / "train.jsonl"
    lines = [f'{{"query": "w{row}", "pos": ["w{row}"], "neg": ["w9"]}}\n' for row in range(8)]
    train.write_text("".join(lines))

    (tmp_path / "texts.txt").write_text("w1 w2\nw3\n")

    def words(verb, out):
        given = {"base": model / "base", "run": tmp_path / "run", "train": train, "out": out}
        given["texts"] = tmp_path / "texts.txt"
        return [word.format(**given) for word in VERBS[verb].split()]

    return words


@pytest.mark.parametrize("verb", ["compress", "export", "export from disk"])
def test_force_neither_removes_the_base_nor_what_is_beside_it(verb, command, model):
    before = sorted(model.rglob("*"))
    assert "holds the model that is read" in refused(*command(verb, model))
    assert "is the model that is read" in refused(*command(verb, model / "base"))
    assert "lies in the model that is read" in refused(*command(verb, model / "base" / "small"))
    assert sorted(model.rglob("*")) == before


@pytest.mark.parametrize("verb", ["compress", "export", "export from disk"])
def test_force_keeps_files_of_others_and_names_them(verb, command, model, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(model, out)
    message = refused(*command(verb, out))
    assert "would be lost: base/config.json, base/" in message
    assert "more; move them away" in message
    assert (out / "notes.txt").read_text() == "mine"


@contextmanager
def held_by_another_thread(out):
    """Hold an output as another verb that is at work would."""
    with ThreadPoolExecutor(1) as pool:
        lock = locked(out)
        pool.submit(lock.__enter__).result()
        try:
            yield
        finally:
            pool.submit(lock.__exit__, None, None, None).result()


@pytest.mark.parametrize("verb", VERBS)
def test_the_second_writer_of_a_folder_is_refused(verb, command, tmp_path):
    out = tmp_path / "out"
    with held_by_another_thread(out):
        assert (
            f"being written by another process ({os.uname().nodename}, process {os.getpid()}"
            in (refused(*command(verb, out), "--quiet"))
        )
    assert not out.exists()


@pytest.mark.parametrize("verb", ["drop {base} --out {out} --mlp-layers 1", "reconstruct {out}"])
def test_the_second_writer_of_a_run_folder_is_refused(verb, model, tmp_path):
    with held_by_another_thread(tmp_path / "run"):
        words = verb.format(base=model / "base", out=tmp_path / "run").split()
        assert "being written by another process" in refused(*words)
