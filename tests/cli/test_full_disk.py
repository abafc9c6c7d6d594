"""On a disk that fills up every verb ends with one sentence that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from tiny import save_bare
from verbs import effir

from effir_integrations.errors import ENVIRONMENT, exit_code, one_line
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.rewrite import identity_on_disk

SIZE = 1 << 20


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small disk of its own."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", folder]
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model, a run folder that narrows it, texts and training lines, on a disk with room."""
    folder = tmp_path_factory.mktemp("inputs")
    base = save_bare("bert", folder / "base")
    PruningPlan(base=identity_on_disk(base), drop_mlp=(1,)).save(folder / "run")
    words = [" ".join(f"w{(row * 7 + word) % 60}" for word in range(9)) for row in range(40)]
    (folder / "texts.txt").write_text("\n".join(words))
    lines = [{"query": x, "pos": [x], "neg": [words[row - 1]]} for row, x in enumerate(words)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus = [{"_id": str(row), "text": x} for row, x in enumerate(words)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    return folder


VERBS = {
    "compress": "compress base OUT --calibration texts.txt --multiple-of 8",
    "export": "export run OUT",
    "export from disk": "export run OUT --from-disk",
    "convert": "convert base OUT --to onnx",
    "convert to gguf": "convert base OUT --to gguf-ids",
    "pair": "pair base base OUT",
    "analyze": "analyze base --out OUT --calibration texts.txt",
    "drop": "drop base --out OUT --mlp-layers 1",
    "encode": "encode base --data corpus.jsonl --out OUT/v.npy",
    "encode to parquet": "encode base --data corpus.jsonl --out OUT/v.parquet",
    "mine": "mine base --data train.jsonl OUT/mined.jsonl",
    "finetune": "finetune base OUT --train train.jsonl --negatives 1 --steps 1 --batch-size 4",
    "distill": "distill base OUT --teacher base --texts corpus.jsonl --steps 1 --batch-size 4",
}


QUICK = ("export from disk", "drop", "encode")


@pytest.mark.parametrize("room", [0, 16_384, 131_072])
@pytest.mark.parametrize(
    "verb", [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in VERBS]
)
def test_a_disk_that_fills_up_is_one_sentence(verb, room, disk, inputs, monkeypatch):
    # as if the room had been there when the work began
    monkeypatch.setattr("effir_integrations.files.check_space", lambda *_: None)
    monkeypatch.setattr("effir_integrations.corpus.to_file.check_space", lambda *_: None)
    monkeypatch.setattr("effir_integrations.model.rewrite.check_space", lambda *_: None)
    monkeypatch.chdir(inputs)
    (disk / "filler").write_bytes(bytes(SIZE - room))
    command = VERBS[verb].replace("OUT", str(disk / "out")).split()
    try:
        result = effir(*command, "--quiet")
        if room and result.exit_code == 0:
            return  # it needs no more
        assert result.exit_code == ENVIRONMENT, result.output
        assert "Traceback" not in result.output
        assert "make room" in result.stderr.strip().splitlines()[-1]
        assert not (disk / "out" / "config.json").exists()
    finally:
        for path in disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/out/x"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        OSError("[Errno 28] Error writing bytes to file. Detail: No space left on device"),
        type("SafetensorError", (Exception,), {})(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
)
def test_a_full_disk_has_one_exit_code_whichever_library_found_it(error):
    assert exit_code(error) == ENVIRONMENT
    assert "the disk is full" in one_line(error)
    assert one_line(error).endswith("; make room, then give the same again")
