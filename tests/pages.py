"""Blocks of code of a page of the documentation, and a way to run them all, word for word.

As a script: `python pages.py PAGE [PRELUDE]` runs every block of the page in order, in one process
and in the folder that it is called in, so that an import and a JVM are paid for once.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_NOT_HERE = ("pip", "torchrun", "accelerate", "text-embeddings-router")
"""Commands that need a network, or processes of their own."""
_NEEDS_MORE = ("push_to_hub", "HuggingFaceEmbedding", "adapters.mteb run")
"""What stands in blocks that need the hub, or a package that is not ours."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return language and body of every fenced block of a page, in order."""
    return re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(body: str) -> Iterator[list[str]]:
    """Yield the words of each command of a block for a shell; a backslash joins lines."""
    for line in body.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run_page(page: Path, prelude: str = "") -> None:
    """Run every block for a shell or Python; the blocks of Python share their names.

    Args:
        page: File of Markdown.
        prelude: Python that makes what the page takes for there.
    """
    scope: dict[str, object] = {"__name__": "page"}
    exec(prelude, scope)  # noqa: S102 - a page of ours
    for language, body in blocks(page):
        if any(word in body for word in _NEEDS_MORE):
            continue
        if language == "sh":
            for words in commands(body):
                run_command(words)
        elif language == "python":
            exec(compile(body, page.name, "exec"), scope)  # noqa: S102 - a page of ours


def run_command(words: list[str]) -> None:
    """Run one command in this process."""
    if words[0] in _NOT_HERE:
        return
    sys.stderr.write(f"$ {shlex.join(words)}\n")
    if words[0] == "export":
        os.environ.update(pair.split("=", 1) for pair in words[1:])
        return
    start = {"effir": ["-m", "effir_integrations"], "python": []}[words[0]] + words[1:]
    before, sys.argv = sys.argv, start[1:] if start[0] == "-m" else start
    try:
        if start[0] == "-m":
            runpy.run_module(start[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / start[0]), run_name="__main__")
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise
    finally:
        sys.argv = before


if __name__ == "__main__":
    run_page(Path(sys.argv[1]), *sys.argv[2:])
