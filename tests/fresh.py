"""Processes that know nothing of ours, at the price of a fork.

Importing torch, Transformers and Sentence Transformers takes most of the time of a new interpreter
that uses them. Here one server has imported them, and nothing of this package; each call forks it.
A fork runs what the command line of Python would run, and ends as an interpreter ends. What depends
on the order of imports, or on an environment that libraries read while they are imported, needs
`subprocess` still.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

ABSENT = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "effir_integrations":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
"""In front of a script that imports sys, so that this package cannot be found there."""
PRELOADED = "sentence_transformers"
SERVE = f"import {PRELOADED}, fresh; fresh.serve()"


def run(
    line: Sequence[object],
    *,
    env: dict[str, str] | None = None,
    cwd: object = None,
    given: str = "",
    timeout: float = 600,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run what follows `python` on a command line: `-c CODE`, `-m MODULE` or FILE, then arguments.

    Args:
        line: The words of the command.
        env: The whole environment, or None for that of this process.
        cwd: The folder to run in, or None for this one's.
        given: What it reads from standard input.
        timeout: Seconds until it is killed.
        check: Whether an exit status other than zero is an error.
    """
    process = Fresh(line, env=env, cwd=cwd, given=given)
    status = process.wait(timeout)
    done = subprocess.CompletedProcess(process.line, status, process.stdout, process.stderr)
    if check and status:
        raise subprocess.CalledProcessError(status, process.line, done.stdout, done.stderr)
    return done


class Fresh:
    """A process that runs beside this one."""

    def __init__(
        self,
        line: Sequence[object],
        *,
        env: dict[str, str] | None = None,
        cwd: object = None,
        given: str = "",
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fresh-")
        (Path(self._folder.name) / "0").write_text(given, encoding="utf-8")
        self.line = [str(word) for word in line]
        request = {
            "line": self.line,
            "env": dict(os.environ) if env is None else env,
            "cwd": str(cwd or os.getcwd()),
            "streams": [os.path.join(self._folder.name, name) for name in "012"],
        }
        self.pid = _ask(request)
        self.returncode: int | None = None

    def wait(self, timeout: float = 600) -> int:
        """Return the exit status, or minus the signal that ended it; kill what takes too long."""
        if self.returncode is None:
            timer = threading.Timer(timeout, os.kill, (self.pid, signal.SIGKILL))
            timer.start()
            try:
                self.returncode = _ask({"wait": self.pid})
            finally:
                timer.cancel()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def kill(self) -> None:
        """End it as a power cut would, and wait for that."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return (Path(self._folder.name) / "1").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return (Path(self._folder.name) / "2").read_text(encoding="utf-8")


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the server; it ends when its standard input is closed, as this process's end does."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-c", SERVE],
        # a thread of OpenBLAS or OpenMP would not be there after a fork
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(request: dict[str, object]) -> int | None:
    """Send one request and return its answer."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def serve() -> None:
    """Answer requests, one a line."""
    inside = {name for name in sys.modules if name.partition(".")[0] == "effir_integrations"}
    assert not inside, f"{inside} came with {PRELOADED}"
    gc.freeze()  # a collection in a fork would copy every page that it looks at
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "line" not in request:
            answer = _ended(request)
        elif (answer := os.fork()) == 0:
            _end(_outcome(request))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    os._exit(0)


def _ended(request: dict[str, int]) -> int | None:
    """Return the exit status of a fork; None if it still runs and is only looked at."""
    pid = request.get("wait") or request["poll"]
    ended, status = os.waitpid(pid, 0 if "wait" in request else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _outcome(request: dict[str, object]) -> int:
    """Run a request in this fork and return what would be the exit status."""
    try:
        _become(request)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(status: int) -> NoReturn:
    """End as an interpreter does, save for taking every module apart, which takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _become(request: dict[str, object]) -> None:
    """Do in this fork what an interpreter does with its command line."""
    for stream, path in enumerate(request["streams"]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, stream)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as we do
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    kind, *arguments = request["line"]
    sys.path[0] = ""
    paths = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in paths if path and path not in sys.path]
    if kind == "-c":
        code, *rest = arguments
        sys.argv = ["-c", *rest]
        exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))  # noqa: S102
    elif kind == "-m":
        sys.argv = list(arguments)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *arguments]
        sys.path[0] = str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")
