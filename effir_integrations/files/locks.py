"""One writer at a time for one output, and the name of the one who writes for those who come next.

A lock is the kernel's (`flock`), so that it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

if os.name == "posix":
    import fcntl

logger = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class _Held:
    descriptor: int
    thread: int


_held: dict[Path, _Held] = {}


def hidden(out: Path, kind: str) -> Path:
    """Return a hidden path for what is needed while `out` is written.

    It lies beside `out`, so that it can be renamed to it; inside where that cannot be.

    Args:
        out: File or folder, absolute and without links.
        kind: What is different between the paths of one output.
    """
    return out / f".effir.{kind}" if is_fixed(out) else out.with_name(f".{out.name}.{kind}")


def is_fixed(out: Path) -> bool:
    """Say whether a folder cannot be renamed: a mounted one, or one in a folder of others."""
    return out.is_dir() and (_is_mounted(out) or not os.access(out.parent, os.W_OK | os.X_OK))


def _is_mounted(folder: Path) -> bool:
    if os.path.ismount(folder):
        return True
    # a folder bound from the same disk looks like any other, but the kernel lists it
    if not _MOUNTS.is_file():
        return False
    lines = _MOUNTS.read_bytes().splitlines()
    places = {line.split()[4].decode("unicode_escape").encode("latin-1") for line in lines}
    return os.fsencode(folder) in places


@contextmanager
def locked(out: Path, *, again: bool = False) -> Iterator[Path]:
    """Be the only one who writes an output, and yield its path without links.

    Folders above `out` are made, and removed if nothing came to lie there. Where the file system
    has no locks, none is taken.

    Args:
        out: File or folder.
        again: Of use to a step of a longer work: this thread may hold the lock already.

    Raises:
        ValueError: Another process or thread writes `out`; the text says which.
        OSError: Nothing can be written beside `out`.
    """
    out = Path(os.path.realpath(out))
    path = hidden(out, "partial-lock")
    held = _held.get(path)
    ours = again and held is not None and held.thread == threading.get_ident()
    if ours or os.name != "posix":
        out.parent.mkdir(parents=True, exist_ok=True)
        yield out
        return
    made = [folder for folder in path.parents if not folder.exists()]
    _held[path] = _Held(_acquire(path, out), threading.get_ident())
    try:
        yield out
    finally:
        with suppress(OSError):
            path.unlink()  # whoever opened it meanwhile sees that it has lost its name
        os.close(_held.pop(path).descriptor)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _acquire(path: Path, out: Path) -> int:
    """Return the descriptor of a lock file that is locked and still has its name."""
    try:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                _flock(descriptor, out)
                if _has_name(descriptor, path):
                    _sign(descriptor)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); make room there, or choose another place"
        raise type(error)(error.errno, reason, str(out)) from error


def _flock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"{out} is being written by another process{_holder(descriptor)}; wait for it, or name "
            "another place"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: no locks here, so let no other process write to it", out)


def _has_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    now = datetime.now(timezone.utc).isoformat(" ", "seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode("ascii"), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return " ({host}, process {pid}, since {since})".format(**holder)
    except (ValueError, KeyError, TypeError):  # it has the lock, but has not signed yet
        return ""


def _let_go_in_child() -> None:
    for held in _held.values():
        os.close(held.descriptor)
    _held.clear()


if os.name == "posix":
    # a forked child would hold on to the lock of a parent that is gone
    os.register_at_fork(after_in_child=_let_go_in_child)
