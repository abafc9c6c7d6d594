"""Write files so that nothing half-written is ever taken for a finished one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .locks import hidden, locked
from .replacing import foreign, is_empty, record, recover, replace_file, replace_folder, unique

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk, a quota, a limit on the size of files."""


@contextmanager
def new_folder(out: Path, *, force: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty hidden folder that becomes `out` only if the block ends well.

    An old `out` is replaced in one step where the file system can do that; where a killed run was
    half-way, the next one ends it. A mounted `out` is written file by file, at the end.

    Raises:
        FileExistsError: As `check_target`.
        OSError: The disk has less than `needed_bytes` left, or nothing can be written there.
        ValueError: Another process writes `out`.
    """
    with claimed(out, force=force, needed_bytes=needed_bytes) as place:
        partial = unique(place, "partial")
        partial.mkdir()
        try:
            yield partial
            check_target(place, force=force)  # somebody may have put a file there meanwhile
            record(partial)
            replace_folder(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def claimed(
    out: Path,
    *,
    force: bool = False,
    sources: Iterable[str | Path] = (),
    needed_bytes: int = 0,
) -> Iterator[Path]:
    """Hold a folder that is to be written, from before the work on, and yield it without links.

    What the end of the work needs is tried first: that nobody else writes there, that nothing is
    lost by it, permission, a rename, and space.

    Args:
        out: The folder; a link stands for what it points to.
        force: Its files are to be replaced.
        sources: Models that it is made of.
        needed_bytes: About how much will be written.

    Raises:
        FileExistsError: As `check_target`.
        OSError: The disk has less than `needed_bytes` left, or nothing can be written there.
        ValueError: Another process writes `out`, or it holds a source or lies in one.
    """
    with locked(out, again=True) as place:
        recover(place)
        check_apart(place, sources)
        check_target(place, force=force)
        check_space(hidden(place, "partial").parent, needed_bytes)
        _try_rename(place)
        yield place


def _try_rename(out: Path) -> None:
    first, second = unique(out, "partial"), unique(out, "partial")
    first.mkdir()
    os.rename(first, second)
    second.rmdir()


def check_apart(out: Path, sources: Iterable[str | Path]) -> None:
    """Refuse to write into a model that is read, or over it.

    Raises:
        ValueError: `out` is one of the folders in `sources`, holds one, or lies in one.
    """
    out = Path(os.path.realpath(out))
    for source in sources:
        place = Path(os.path.realpath(source))
        if not place.is_dir():
            continue
        how = "is" if out == place else "holds" if out in place.parents else "lies in"
        if how != "lies in" or place in out.parents:
            raise ValueError(
                f"{out} {how} the model that is read, {source}; choose a folder beside it"
            )


def check_target(out: Path, *, force: bool) -> None:
    """Refuse to write over something that is there.

    Raises:
        FileExistsError: `out` is a file; or a folder that is not empty, and `force` was not given
            or it holds files that were not written with it.
    """
    out = Path(os.path.realpath(out))
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a new folder to write to")
    if not out.is_dir():
        return
    if not force and not is_empty(out):
        raise FileExistsError(f"{out} is not empty; choose another folder, or replace it (--force)")
    others = foreign(out)
    if others:
        named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if others[3:] else "")
        raise FileExistsError(
            f"{out} holds files that were not written with it and would be lost: {named}; move "
            "them away, or choose another folder"
        )


def inside(folder: Path, name: str | Path) -> Path:
    """Return a path in a folder, if neither `..` nor a link leads out of it.

    In the cache of the hub all files are links to its blobs, which count as the folder's own.

    Raises:
        ValueError: It leads out.
    """
    path, place = folder / name, Path(os.path.realpath(folder / name))
    own = Path(os.path.realpath(folder))
    blobs = [own.parents[1] / "blobs"] if own.parent.name == "snapshots" else []
    if not any(place.is_relative_to(root) for root in (own, *blobs)):
        raise ValueError(
            f"{path} leads out of {folder}, to {place}; copy what belongs to the model into its "
            "folder (cp -rL) and name that"
        )
    return path


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


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` that becomes it only if the block ends well.

    Leftovers of runs that were killed are removed first. Where `path` is a link, what it points to
    is written.

    Raises:
        OSError: Nothing can be written there.
        ValueError: Another process writes `path`.
    """
    with locked(path, again=True) as place:
        recover(place)
        partial = unique(place, "partial")
        try:
            yield partial
            replace_file(partial, place)
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
    content = read_any_json(path, expected)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; expected {expected}")
    return content


def read_any_json(path: Path, expected: str) -> Any:
    """Read JSON of any kind.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; expected {expected}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); expected {expected}") from error


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
