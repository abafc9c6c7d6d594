"""Nothing half-written is ever taken for a finished folder or file."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from effir_integrations.files import new_file, new_folder, read_json, write_json
from effir_integrations.files.replacing import RECORD, contents


def test_a_folder_appears_whole(tmp_path):
    out = tmp_path / "deep" / "model"
    with new_folder(out) as partial:
        (partial / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1"
    assert os.listdir(out.parent) == ["model"]


def test_a_failure_leaves_nothing_and_keeps_the_old(tmp_path):
    out = tmp_path / "model"
    with new_folder(out) as partial:
        (partial / "old").write_text("kept")
    with pytest.raises(KeyboardInterrupt), new_folder(out, force=True) as partial:
        (partial / "a").write_text("1")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["model"]
    assert (out / "old").read_text() == "kept"


def test_force_replaces_the_old_folder(tmp_path):
    out = tmp_path / "model"
    with new_folder(out) as partial:
        (partial / "old").write_text("x")
    with new_folder(out, force=True) as partial:
        (partial / "new").write_text("y")
    assert contents(out) == [RECORD, "new"]
    assert os.listdir(tmp_path) == ["model"]


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x").write_text("")
    with pytest.raises(FileExistsError, match="not empty"), new_folder(tmp_path / "model"):
        pass
    with pytest.raises(FileExistsError, match="is a file"), new_folder(tmp_path / "model" / "x"):
        pass


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from effir_integrations.files import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'a').write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    out = tmp_path / "model"
    killed = subprocess.run([sys.executable, "-c", script, out], check=False, timeout=120)
    assert killed.returncode == -9
    assert all(name.startswith(".model.partial-") for name in os.listdir(tmp_path))
    with new_folder(out) as partial:
        (partial / "a").write_text("whole")
    assert os.listdir(tmp_path) == ["model"]


def test_a_disk_that_is_too_small_is_refused_before_writing(tmp_path):
    with (
        pytest.raises(OSError, match=r"MB are needed but only [\d,]+ MB are free") as error,
        new_folder(tmp_path / "model", needed_bytes=10**18),
    ):
        pass
    assert error.value.errno == 28
    assert os.listdir(tmp_path) == []


def test_a_file_that_fails_half_way_keeps_the_old(tmp_path):
    path = tmp_path / "plan.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), new_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert read_json(path, "a plan") == {"a": 1}
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_files_leftovers_of_killed_runs_are_removed(tmp_path):
    left = tmp_path / ".a.json.partial-999999999"
    left.write_text("half")
    other = tmp_path / ".b.json.partial-999999999"
    other.write_text("half")
    write_json(tmp_path / "a.json", {})
    assert not left.exists()
    assert other.exists()
