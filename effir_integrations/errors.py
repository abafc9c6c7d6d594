"""Exit codes, and one plain line on standard error for every exception."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .files import FULL

DONE, BUG, BAD_INPUT, BROKEN, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES = """Exit codes: 0 done; 1 a fault of effir itself; 2 input or settings that will not do;
3 a stage found its own result wrong and wrote nothing; 4 the machine (missing package, disk,
memory); 130 interrupted."""

_FULL_WORDS = (
    *(os.strerror(number) for number in FULL),
    "iostream error",
    "file write failed",
    "PytorchStreamWriter failed",
    "unexpected pos",
    " requested and ",
)


_FROM_TORCHAO = {"torchao": "Failed to load ", "torch.utils._pytree": " is an Enum subclass "}
"""Logger -> what it says whenever torchao is imported, on any machine without its GPU kernels."""


def _quiet_torchao() -> None:
    """Leave out what importing torchao says, which Transformers does where it is installed."""
    for name in _FROM_TORCHAO:
        logging.getLogger(name).addFilter(_is_worth_saying)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return _FROM_TORCHAO[record.name] not in record.getMessage()


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Turn an exception into one line on standard error and an exit code, unless `debug`."""
    _quiet_torchao()
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if debug or isinstance(error, SystemExit) or _is_click(error):
            raise
        code = exit_code(error)
        hint = "" if code != BUG else " (--debug shows where)"
        sys.stderr.write(f"effir: {one_line(error)}{hint}\n")
        raise SystemExit(code) from None


def _is_click(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("click", "typer")


def exit_code(error: BaseException) -> int:
    """Return the exit code that stands for an exception."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if _is_disk_full(error):
        return ENVIRONMENT
    if isinstance(error, (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError)):
        return BAD_INPUT
    if isinstance(error, (ImportError, OSError, MemoryError)):
        return ENVIRONMENT
    return BROKEN if type(error) is RuntimeError else BUG


def _is_disk_full(error: BaseException | None) -> bool:
    """Say whether writing failed, whichever library wrote: each has a class and words of its own.

    C++ streams do not say why; on a disk that works there is one reason.
    """
    seen: list[BaseException] = []  # a chain may come round to where it began
    while error is not None and error not in seen:
        seen.append(error)
        if getattr(error, "errno", None) in FULL or any(word in str(error) for word in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def one_line(error: BaseException) -> str:
    """Return what an exception says on one line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-written was left"
    text = " ".join(str(error).split())
    if _is_disk_full(error) and not _says_what_to_do(error):
        name = getattr(error, "filename", None)
        place = f"{name}: " if name else ""
        reason = "" if place else f" ({text})"
        text = f"{place}the disk is full{reason}; make room, then give the same again"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    if exit_code(error) == BUG or not text:
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 600 else text[:600] + " ..."


def _says_what_to_do(error: BaseException) -> bool:
    return isinstance(error, OSError) and "; " in (error.strerror or "")


def quiet_libraries() -> None:
    """Keep the progress bars and load reports of other libraries off the screen."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("sentence_transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
