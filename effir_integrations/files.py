"""Write files so that nothing half-written is ever taken for a finished one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_folder(out: Path, *, force: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty folder beside `out` that becomes `out` only if the block ends well.

    Leftovers of runs that were killed are removed first. An old `out` is replaced in one rename.

    Raises:
        FileExistsError: `out` exists and `force` was not given, or is not a folder.
        OSError: The disk has less than `needed_bytes` left.
    """
    out = Path(os.path.abspath(out))
    check_target(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    check_space(out.parent, needed_bytes)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        _replace_folder(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(out: Path, *, force: bool) -> None:
    """Refuse to write over something that is there.

    Raises:
        FileExistsError: `out` is a file, or a non-empty folder and `force` was not given.
    """
    if out.is_file():
        raise FileExistsError(f"{out} is a file; name a new folder to write to")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise FileExistsError(f"{out} is not empty; choose another folder, or replace it (--force)")


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start writing what the disk cannot hold.

    Raises:
        OSError: Fewer than `needed_bytes` are free where `folder` lies.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OSError(
            errno.ENOSPC,
            f"{needed_bytes / 1e6:,.0f} MB are needed but only {free / 1e6:,.0f} MB are free; "
            "make room or choose another disk",
            str(folder),
        )


def _remove_leftovers(out: Path) -> None:
    for old in out.parent.glob(f".{out.name}.partial-*"):
        if _is_running(old.name.rpartition("-")[2]):
            continue
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    if not process.isdigit() or int(process) == os.getpid():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replace_folder(new: Path, out: Path) -> None:
    old = out.parent / f".{out.name}.replaced-{os.getpid()}"
    if out.exists():
        os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it if the block ends well.

    Leftovers of runs that were killed are removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write sorted, indented JSON with a newline at the end, by rename."""
    with new_file(path) as partial:
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Read a JSON object; `expected` says in the error what should have been there.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; expected {expected}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); expected {expected}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; expected {expected}")
    return content


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder_bytes(folder: Path) -> int:
    """Return the size on disk of all files of a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
