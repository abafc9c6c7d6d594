"""Run a module of Pyserini as its command line does, with everything prepared that it needs."""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ... import errors
from ...extras import import_extra
from ..lazy_encoder import LazyEncoder
from . import indexing, searching
from .commands import Command, Request, changed
from .java import find_java
from .register import NAME, import_encoders, register, start_pyserini

_PREPARE: dict[str, Callable[[Request], Command]] = {
    "pyserini.encode": indexing.encode,
    "pyserini.index.faiss": indexing.index_faiss,
    "pyserini.index.lucene": indexing.index_lucene,
    "pyserini.index.merge_faiss_indexes": indexing.merge_indexes,
    "pyserini.search.faiss": searching.search_faiss,
    "pyserini.search.hybrid": searching.search_hybrid,
    "pyserini.search.lucene": searching.search_lucene,
    "pyserini.fusion": searching.fusion,
    "pyserini.eval.trec_eval": searching.trec_eval,
}
MODULES = tuple(_PREPARE)
"""What can be launched."""
_WITHOUT_JAVA = ("pyserini.fusion",)
_WITH_ENCODERS = (
    "pyserini.encode",
    "pyserini.search.faiss",
    "pyserini.search.hybrid",
)


def launch(
    module: str, arguments: Sequence[str] | None = None, *, encoder: LazyEncoder | None = None
) -> None:
    """Run `python -m MODULE ARGUMENTS` in this process; any number of times, one at a time.

    Encoders of class `effir`, the default, are ours. What Pyserini cannot know (the dimension, how
    many texts to hand over, the longest text) is filled in where it is not given.

    Args:
        module: One of `MODULES`.
        arguments: None takes those of the process.
        encoder: Loaded already, or shared with another launch, instead of a new one for
            `--encoder`.

    Raises:
        FileNotFoundError: Something that an option names is not there.
        ValueError: An option is missing or does not fit the others, the model or the index.
        ImportError: A package or a recent Java is missing.
        RuntimeError: Pyserini ended without having written what it should.
        SystemExit: Pyserini refused an option.
    """
    with TemporaryDirectory(prefix="effir-") as scratch:
        command = _ready(module, arguments, encoder, Path(scratch))
        before = changed(command.written)
        _run(module, command)
        _finish(module, command, before)


def main(module: str) -> None:
    """Run a module from the command line of this process; bad input is refused in one line."""
    with TemporaryDirectory(prefix="effir-") as scratch:
        with errors.plain_errors(False):
            command = _ready(module, None, None, Path(scratch))
        before = changed(command.written)
        _run(module, command)
        with errors.plain_errors(False):
            _finish(module, command, before)


def _ready(
    module: str, arguments: Sequence[str] | None, encoder: LazyEncoder | None, scratch: Path
) -> Command:
    if module not in MODULES:
        raise ValueError(f"{module!r} cannot be launched; choose from {', '.join(MODULES)}")
    import_extra("pyserini", "pyserini")
    if module not in _WITHOUT_JAVA and not import_extra("jnius_config", "pyserini").vm_running:
        # before the encoder is loaded, which may take minutes
        find_java()
    request = Request(
        module=module,
        arguments=tuple(sys.argv[1:] if arguments is None else arguments),
        encoder=encoder,
        scratch=scratch,
    )
    wants_help = {"-h", "--help"} & set(request.arguments)
    command = Command(arguments=request.arguments) if wants_help else _PREPARE[module](request)
    if module in _WITH_ENCODERS:
        register()
    elif module == "pyserini.search.lucene":
        import_encoders()
    elif module not in _WITHOUT_JAVA:
        start_pyserini()
    return command


def _run(module: str, command: Command) -> None:
    try:
        with _encoders(command), _class_accepted(), _arguments(module, command.arguments):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        # with code 0 it ends where it could not open an index, which is for the caller to see
        if stop.code not in (None, 0):
            command.abandon()
            raise
    except BaseException:
        command.abandon()
        raise


def _finish(module: str, command: Command, before: int | None) -> None:
    if command.written is not None and changed(command.written) == before:
        command.abandon()
        raise RuntimeError(
            f"{module} ended without having written {command.written}; what it printed says why"
        )
    command.finish()


@contextmanager
def _encoders(command: Command) -> Iterator[None]:
    """Let class effir stand for the encoders that are there, while the context lasts."""
    if command.document is None and command.query is None:
        yield
        return
    tables = importlib.import_module("pyserini.encode")
    if command.document is not None:
        tables.document_encoder_class_map[NAME] = lambda **_: command.document
    if command.query is not None:
        tables.query_encoder_class_map[NAME] = lambda **_: command.query
    try:
        yield
    finally:
        register()


@contextmanager
def _class_accepted() -> Iterator[None]:
    """Let parsers accept one more class of encoders: Pyserini lists those it accepts in place."""
    parser: Any = argparse.ArgumentParser
    stock = parser.add_argument

    def add_argument(self: Any, *names: str, **settings: Any) -> Any:
        if "--encoder-class" in names and settings.get("choices"):
            settings["choices"] = [*settings["choices"], NAME]
        return stock(self, *names, **settings)

    parser.add_argument = add_argument
    try:
        yield
    finally:
        parser.add_argument = stock


@contextmanager
def _arguments(module: str, arguments: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [module, *arguments]
    try:
        with warnings.catch_warnings():
            # modules of Pyserini import those that are run as commands as well
            warnings.filterwarnings("ignore", message=".*found in sys.modules after import")
            yield
    finally:
        sys.argv = before
