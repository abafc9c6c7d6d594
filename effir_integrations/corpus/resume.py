"""What a run that encodes to a file has done so far, in a folder that outlives the run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.vector_files import DTYPE, NPY_HEADER_BYTES, WRITERS, ids_path, npy_header, write_ids
from ..encoder.store_record import StoreRecord, record_path
from ..files import FULL, new_file, read_json
from ..files.locks import locked
from .repeated_ids import repeated_ids

FORMAT = "effir-encode/1"
STATE, VECTORS, IDS, HASHES = "state.json", "vectors.npy", "ids.jsonl", "ids.hashes"
_SETTING_NAMES = {"weights": "weights in", "max_seq_length": "max_seq_length (--max-length)"}


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a run came, and with what."""

    settings: dict[str, Any]
    """All that changes the vectors, besides the model."""
    encoder: str
    """Fingerprint of the model."""
    model: str
    """Its name."""
    files: str
    """What stores know it by: the identity of its files, or the fingerprint."""
    replaces: bool
    """Whether the run may replace an old file, so that its continuation may."""
    rows: int = 0
    """Texts whose vectors are on the disk."""
    dimension: int = 0
    """Numbers a vector; 0 before the first window."""
    ids_bytes: int = 0
    """Length of the file of ids."""
    texts: str = ""
    """SHA-256 over the ids and texts of these rows."""


def work_folder(out: Path) -> Path:
    """Return where the unfinished work for a file lies: hidden, beside it."""
    return out.with_name(f".{out.name}.partial")


def may_replace(out: Path) -> bool:
    """Say whether an unfinished run was told to replace what is at `out`."""
    folder = work_folder(out)
    vectors = folder / VECTORS
    if not (folder / STATE).is_file() or not vectors.is_file() or not vectors.stat().st_size:
        return False
    return bool(read_json(folder / STATE, "the state of an unfinished run").get("replaces"))


class Unfinished:
    """Vectors and ids, window by window, each safe on the disk before the next begins."""

    def __init__(self, out: Path, begun: State, *, restart: bool) -> None:
        """Open or begin the work for a file.

        Args:
            out: The file that is to be made.
            begun: The settings of this run; nothing is done in it yet.
            restart: Throw away what an earlier run did.

        Raises:
            ValueError: An earlier run had other settings, or another run writes this very file.
        """
        self.out = out
        self.folder = work_folder(out)
        self.state = begun
        with ExitStack() as held:
            held.enter_context(locked(out))
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / VECTORS, os.O_RDWR | os.O_CREAT, 0o666)
            self._vectors = held.enter_context(os.fdopen(descriptor, "r+b", buffering=0))
            self._open(begun, restart)
            self._held = held.pop_all()

    def _open(self, begun: State, restart: bool) -> None:
        size = os.fstat(self._vectors.fileno()).st_size
        # the vectors leave first when a run ends well, so a state alone is of a finished one
        if restart or not size or not (self.folder / STATE).is_file():
            (self.folder / STATE).unlink(missing_ok=True)
        else:
            self.state = self._continued(begun, size)
        self._vectors.truncate(self._vector_bytes() if self.state.rows else 0)
        self._vectors.seek(0, os.SEEK_END)
        self._ids = (self.folder / IDS).open("ab", buffering=0)
        self._ids.truncate(self.state.ids_bytes)

    def _continued(self, begun: State, size: int) -> State:
        content = read_json(self.folder / STATE, "the state of an unfinished run")
        if content.pop("format", None) != FORMAT:
            raise ValueError(
                f"{self.folder} is of another version; start over with --force (force=True)"
            )
        found = State(**content)
        self._check_same(found, begun)
        self.state = found
        if size < self._vector_bytes():
            raise ValueError(
                f"{self.folder / VECTORS} is shorter than its state says; start over with --force "
                "(force=True)"
            )
        return replace(found, replaces=found.replaces or begun.replaces)

    def _check_same(self, found: State, begun: State) -> None:
        other = found.encoder != begun.encoder
        if other and found.model != begun.model:
            raise self._other_model(found, f"of {found.model}, not of {begun.model}")
        for name, now in begun.settings.items():
            before = found.settings.get(name)
            if before != now:
                raise ValueError(
                    f"{self.folder} holds {found.rows:,} vectors made with "
                    f"{_SETTING_NAMES.get(name, name)} {before!r}, not {now!r}; give the same "
                    "again, or start over with --force (force=True)"
                )
        if other:
            what = "of another model (weights, tokenizer or pooling differ)"
            raise self._other_model(found, what)

    def _other_model(self, found: State, what: str) -> ValueError:
        return ValueError(
            f"{self.folder} holds {found.rows:,} vectors {what}; give that model again, or start "
            "over with --force (force=True)"
        )

    def _vector_bytes(self) -> int:
        return NPY_HEADER_BYTES + self.state.rows * self.state.dimension * DTYPE.itemsize

    def append(self, ids: Sequence[str], vectors: np.ndarray, texts: str) -> None:
        """Put a window on the disk, then say in the state that it is there.

        Args:
            ids: Of the texts of the window.
            vectors: (ids, dimension) float32.
            texts: SHA-256 over the ids and texts of all windows so far.
        """
        dimension = vectors.shape[1]
        if not self.state.rows:
            _write(self._vectors, npy_header(0, dimension))
        lines = "".join(json.dumps(identifier) + "\n" for identifier in ids).encode("ascii")
        _write(self._vectors, np.ascontiguousarray(vectors, DTYPE).data.cast("B"))
        _write(self._ids, lines)
        for file in (self._vectors, self._ids):
            os.fsync(file.fileno())
        state = replace(
            self.state,
            rows=self.state.rows + len(ids),
            dimension=dimension,
            ids_bytes=self.state.ids_bytes + len(lines),
            texts=texts,
        )
        content = json.dumps({"format": FORMAT, **asdict(state)}, indent=2).encode("ascii")
        with new_file(self.folder / STATE) as partial, partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        self.state = state

    def repeated_ids(self) -> tuple[int, str]:
        """Return how many ids repeat an earlier one, and one that does."""
        return repeated_ids(self._id_windows, self.state.rows, self.folder / HASHES)

    def finish(self) -> None:
        """Make the file, which appears whole or not at all, and remove the folder."""
        write = WRITERS.get(self.out.suffix)
        if write is not None:
            with new_file(self.out) as partial:
                write(partial, self._blocks(), self.state.dimension)
                _sync(partial)
                self._write_record()
            self._close_files()
        else:
            self._finish_npy()
        _sync(self.out.parent)
        shutil.rmtree(self.folder)

    def _finish_npy(self) -> None:
        self._vectors.seek(0)
        _write(self._vectors, npy_header(self.state.rows, self.state.dimension))
        os.fsync(self._vectors.fileno())
        ids = ids_path(self.out)
        assert ids is not None  # noqa: S101 - the ending was looked at
        with new_file(ids) as partial:
            write_ids(partial, self._id_windows())
            _sync(partial)
            self._write_record()
        self._close_files()
        os.replace(self.folder / VECTORS, self.out)

    def _write_record(self) -> None:
        """Name the model beside the file, which appears next."""
        # old vectors must never lie beside a new record or new ids, not even if the process is
        # killed here
        self.out.unlink(missing_ok=True)
        state = self.state
        StoreRecord(
            model=state.model,
            fingerprint=state.files,
            dimension=state.dimension,
            settings=state.settings,
        ).save(self.out)
        _sync(record_path(self.out))

    def _id_windows(self) -> Iterator[list[str]]:
        window = self.state.settings["window"]
        with (self.folder / IDS).open(encoding="ascii") as stream:
            for start in range(0, self.state.rows, window):
                count = min(window, self.state.rows - start)
                yield [json.loads(stream.readline()) for _ in range(count)]

    def _blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        dimension = self.state.dimension
        with (self.folder / VECTORS).open("rb") as stream:
            stream.seek(NPY_HEADER_BYTES)
            for ids in self._id_windows():
                raw = stream.read(len(ids) * dimension * DTYPE.itemsize)
                yield ids, np.frombuffer(raw, DTYPE).reshape(len(ids), dimension)

    def close(self) -> None:
        """Let go of the files and the lock; a folder in which nothing is done yet is removed."""
        self._close_files()
        if not self.state.rows and not (self.folder / STATE).is_file():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._held.close()

    def _close_files(self) -> None:
        self._ids.close()
        self._vectors.close()

    @contextmanager
    def explained_when_full(self) -> Iterator[None]:
        """Say what is kept and what to do next where the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise OSError(
                error.errno,
                f"the disk is full (or a quota, or a limit on file size, is reached); "
                f"{self.state.rows:,} texts are kept in {self.folder}: make room, then give the "
                "same again, without --force, and it resumes from there",
                str(self.out),
            ) from error


def _write(file: Any, content: bytes | memoryview) -> None:
    # a raw write stops short where the disk is full, and only the next one says so
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
