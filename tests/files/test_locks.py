"""One writer at a time for one output, and the second is told who the first is."""

from __future__ import annotations

import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from effir_integrations.files import new_file, new_folder
from effir_integrations.files.locks import locked
from effir_integrations.files.replacing import unique

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks are the kernel's")


def test_the_second_writer_is_told_who_the_first_is_and_a_kill_frees_the_lock(tmp_path):
    out = tmp_path / "model"
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        with new_folder(out) as partial:
            (partial / "a").write_text("first")
            os.write(writer, b"1")
            signal.pause()
    os.read(reader, 1)
    who = rf"\({re.escape(socket.gethostname())}, process {first}, since 20..-.*\+00:00\)"
    with (
        pytest.raises(ValueError, match=f"being written by another process {who}; wait"),
        new_folder(out, force=True),
    ):
        pytest.fail("both write")
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    with new_folder(out) as partial:
        (partial / "b").write_text("second")
    assert (out / "b").read_text() == "second"
    assert os.listdir(out.parent) == ["model"]


def test_two_threads_do_not_write_one_file(tmp_path):
    def second():
        with new_file(tmp_path / "a.json"):
            pytest.fail("both write")

    with new_file(tmp_path / "a.json") as partial, ThreadPoolExecutor(1) as pool:
        partial.write_text("first")
        with pytest.raises(ValueError, match="being written"):
            pool.submit(second).result()
    assert (tmp_path / "a.json").read_text() == "first"


def test_a_lock_is_held_until_the_outermost_step_ends(tmp_path):
    out = tmp_path / "deep" / "model"
    with locked(out):
        with locked(out, again=True):
            pass
        with pytest.raises(ValueError, match="being written"), locked(out):
            pass
    with locked(out):
        pass
    assert os.listdir(tmp_path) == []


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path):
    reader, writer = os.pipe()
    with locked(tmp_path / "model"):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    with locked(tmp_path / "model"):
        pass
    os.close(writer)
    os.waitpid(child, 0)
    os.close(reader)


def test_two_processes_of_one_number_have_different_names_for_what_is_unfinished(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert unique(Path("/a"), "partial") != unique(Path("/a"), "partial")
