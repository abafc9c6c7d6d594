"""Put a finished folder in the place of another, so that a kill at any moment loses neither."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from .locks import hidden, is_fixed

RECORD = ".effir-files"
"""Lists the files that were written into a folder, so that others can be told from them."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_CANNOT_RENAME = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)
_NOBODYS = "lost+found"  # of every ext4 disk


def unique(out: Path, kind: str) -> Path:
    """Return a hidden path of no other process: in two containers two may have one number."""
    return hidden(out, f"{kind}-{uuid.uuid4().hex}")


def leftovers(out: Path, kind: str) -> list[Path]:
    """Return the hidden paths of a kind that runs which were killed left of an output."""
    prefix = hidden(out, f"{kind}-")
    if not prefix.parent.is_dir():
        return []
    lock = hidden(out, "partial-lock")
    found = (prefix.parent / name for name in sorted(os.listdir(prefix.parent)))
    return [path for path in found if path.name.startswith(prefix.name) and path != lock]


def contents(folder: Path) -> list[str]:
    """Return the files of a folder, relative to it, without those of a run that is at work."""
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or not path.is_dir()) and not _is_passing(path.relative_to(folder))
    ]


def is_empty(folder: Path) -> bool:
    """Say whether a folder holds nothing but what a run that is at work put there."""
    return all(_is_passing(Path(name)) for name in os.listdir(folder))


def _is_passing(path: Path) -> bool:
    return path.parts[0] == _NOBODYS or path.parts[0].startswith((".effir.partial", ".effir.ready"))


def foreign(folder: Path) -> list[str]:
    """Return the files of a folder, relative to it, that were not written with it."""
    ours = _recorded(folder) or []
    return [name for name in contents(folder) if name not in {*ours, RECORD}]


def record(folder: Path) -> None:
    """Write down which files were written into a folder."""
    _write_record(folder / RECORD, contents(folder))


def _write_record(path: Path, names: list[str]) -> None:
    path.write_text(json.dumps(sorted({*names} - {RECORD}), indent=1) + "\n", encoding="utf-8")


def _recorded(folder: Path) -> list[str] | None:
    try:
        names = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none, or no longer whole: nothing is known to be ours
        return None
    return names if isinstance(names, list) else None


def replace_folder(new: Path, out: Path) -> None:
    """Give a finished folder its name; what had it before then has that of `new`, or is gone.

    In one step where the kernel and the file system can exchange two names, in two with `recover`
    in between where not, and file by file where `out` cannot be renamed.
    """
    if is_fixed(out):
        _write_into(new, out)
    elif not out.exists():
        os.rename(new, out)
    elif not _exchange(new, out):
        old = unique(out, "replaced")
        try:
            os.rename(out, old)
        except OSError as error:
            if error.errno not in _CANNOT_RENAME:
                raise
            inside = out / f".effir.partial-{uuid.uuid4().hex}"
            shutil.copytree(new, inside)
            _write_into(inside, out)
            return
        try:
            os.rename(new, out)
        except BaseException:
            os.rename(old, out)
            raise
        shutil.rmtree(old, ignore_errors=True)


def replace_file(new: Path, out: Path) -> None:
    """Give a finished file its name; where that is a mounted file, it gets the content."""
    try:
        os.replace(new, out)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        shutil.copyfile(new, out)


def recover(out: Path) -> None:
    """End what a killed run had begun to replace, and clear away what it left.

    To be called by the one who holds the lock: nothing that is found belongs to a running process.
    """
    for old in leftovers(out, "replaced"):
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, out)
    for ready in out.glob(".effir.ready-*"):
        _write_into(ready, out)
    for left in (*leftovers(out, "partial"), *out.glob(".effir.partial-?*")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _renameat2() -> Any:
    if os.name != "posix":
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where that cannot be done."""
    rename = _renameat2()
    if rename is None:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (*_CANNOT_EXCHANGE, *_CANNOT_RENAME):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _write_into(new: Path, out: Path) -> None:
    """Move files into a folder that keeps its place; those that say what it is go first, come last.

    `new` lies inside of `out` and has its record; whoever finds it under the name that it is given
    here resumes with what is left in it.
    """
    ready = new.with_name(new.name.replace(".effir.partial-", ".effir.ready-"))
    os.rename(new, ready)
    files = _recorded(ready)
    if files is not None:
        gone = [name for name in contents(out) if name not in (*files, RECORD)]
        for name in _manifests(contents(out)):
            if name in gone or (ready / name).exists():
                (out / name).unlink()
        # until the end, the files of both are known to be ours
        staged = ready / ".effir.partial"
        _write_record(staged, [*files, *gone])
        os.replace(staged, out / RECORD)
        last = _manifests(files)
        for name in gone:
            (out / name).unlink(missing_ok=True)
        for name in [*(name for name in files if name not in last), *last]:
            if (ready / name).exists():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(ready / name, out / name)
        os.replace(ready / RECORD, out / RECORD)
    shutil.rmtree(ready)


def _manifests(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(".json") and "/" not in name)
