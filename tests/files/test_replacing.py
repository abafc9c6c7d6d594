"""A folder takes the place of another in one step, and a kill loses neither of the two."""

from __future__ import annotations

import os
import signal
import subprocess
from itertools import count

import pytest

from effir_integrations.files import check_apart, claimed, new_file, new_folder, replacing
from effir_integrations.files.replacing import RECORD, contents, recover

OLD = {"config.json": "old", "a/weights": "old", "gone": "old"}
NEW = {"config.json": "new", "a/weights": "new", "b/more": "new"}
STEPS = ("rename", "replace", "unlink", "rmdir", "mkdir")

posix = pytest.mark.skipif(os.name != "posix", reason="forks")


def write(out, files, *, force=False):
    """Write a folder as the verbs do."""
    with new_folder(out, force=force) as partial:
        for name, text in files.items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(text)


def read(out):
    """Return what a folder holds, by the path in it."""
    return {name: (out / name).read_text() for name in contents(out) if name != RECORD}


def killed_at(number, act):
    """Run in a child that is killed at the step of that number; say whether it came so far."""
    child = os.fork()
    if child == 0:
        left = number

        def stopping(step):
            def run(*arguments, **options):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*arguments, **options)

            return run

        for name in STEPS:
            setattr(os, name, stopping(getattr(os, name)))
        act()
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


@pytest.fixture(params=["exchanged", "renamed twice"])
def way(request, monkeypatch):
    """Replace as this kernel can, and as one without renameat2 does."""
    if request.param == "renamed twice":
        monkeypatch.setattr(replacing, "_renameat2", lambda: None)
    elif replacing._renameat2() is None:
        pytest.skip("there is no renameat2 here")
    return request.param


@posix
def test_a_kill_at_any_step_of_a_replacement_keeps_the_old_or_the_new(tmp_path, way):
    seen = set()
    for number in count(1):
        out = tmp_path / str(number) / "model"
        write(out, OLD)
        if not killed_at(number, lambda out=out: write(out, NEW, force=True)):
            break
        if way == "exchanged":
            assert read(out) in (OLD, NEW)
        recover(out)
        assert read(out) in (OLD, NEW)
        seen.add(read(out)["config.json"])
        write(out, NEW, force=True)
        assert read(out) == NEW
        assert os.listdir(out.parent) == ["model"]
    assert seen == {"old", "new"}


def mounted(folder, *options):
    """Mount something at a folder, or skip the test where that is not allowed."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *options, folder], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")


@pytest.fixture(params=["tmpfs", "bind"])
def volume(request, tmp_path):
    """A folder that is mounted: another file system, or another folder of the same."""
    folder = tmp_path / "volume"
    (tmp_path / "behind").mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "none"]
    mounted(folder, *(options if request.param == "tmpfs" else ["--bind", tmp_path / "behind"]))
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_mounted_folder_is_written_into(volume):
    write(volume, OLD)
    assert read(volume) == OLD
    with pytest.raises(FileExistsError, match="not empty"):
        write(volume, NEW)
    write(volume, NEW, force=True)
    assert read(volume) == NEW
    assert sorted(os.listdir(volume)) == [RECORD, "a", "b", "config.json"]
    assert sorted(os.listdir(volume.parent)) == ["behind", "volume"]


def test_a_kill_while_a_mounted_folder_is_written_leaves_no_half_model(volume):
    seen = set()
    for number in count(1):
        write(volume, OLD, force=True)
        if not killed_at(number, lambda: write(volume, NEW, force=True)):
            break
        assert read(volume) in (OLD, NEW) or "config.json" not in read(volume)
        recover(volume)
        assert read(volume) in (OLD, NEW)
        seen.add(read(volume)["config.json"])
    assert seen == {"old", "new"}


def test_a_link_stands_for_the_folder_that_it_points_to(tmp_path):
    (tmp_path / "link").symlink_to("place")
    write(tmp_path / "link", OLD)
    write(tmp_path / "link", NEW, force=True)
    assert read(tmp_path / "place") == NEW
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "file").symlink_to("place/b/more")
    with new_file(tmp_path / "file") as partial:
        partial.write_text("through")
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "place/b/more").read_text() == "through"


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    folder = tmp_path / "volume"
    mounted(folder, "-t", "tmpfs", "-o", "ro", "none")
    try:
        for out in (folder, folder / "model"):
            with pytest.raises(OSError, match="cannot be written"), claimed(out):
                pytest.fail("the work began")
    finally:
        subprocess.run(["umount", folder], check=True)


def test_force_keeps_what_was_not_written_with_the_folder(tmp_path):
    out = tmp_path / "model"
    write(out, OLD)
    (out / "notes.txt").write_text("mine")
    (out / "base").mkdir()
    (out / "base" / "config.json").write_text("mine")
    with (
        pytest.raises(FileExistsError, match=r"would be lost: base/config\.json, notes\.txt; move"),
        claimed(out, force=True),
    ):
        pytest.fail("the work began")
    assert (out / "notes.txt").read_text() == "mine"


def test_a_file_that_appears_during_the_work_is_kept(tmp_path):
    out = tmp_path / "model"
    write(out, OLD)
    with pytest.raises(FileExistsError, match=r"notes\.txt"), new_folder(out, force=True):
        (out / "notes.txt").write_text("mine")
    assert read(out) == {**OLD, "notes.txt": "mine"}
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("out", "how"), [("m/base", "is"), ("m", "holds"), ("m/base/small", "lies in"), ("l", "is")]
)
def test_a_folder_that_has_to_do_with_the_source_is_refused(tmp_path, out, how):
    (tmp_path / "m" / "base").mkdir(parents=True)
    (tmp_path / "l").symlink_to("m/base")
    with pytest.raises(ValueError, match=f" {how} the model that is read"):
        check_apart(tmp_path / out, [tmp_path / "m" / "base"])
    check_apart(tmp_path / "m" / "small", [tmp_path / "m" / "base", "no folder"])
