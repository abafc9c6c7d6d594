"""Read JSON Lines files as a stream, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_EXCERPT_LENGTH = 60


def read_jsonl(
    path: str | Path, required: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each object of a JSON Lines file with its line number, one line in memory at a time.

    The path is checked at the call, each line as it is read. Blank lines are skipped but counted.

    Args:
        path: A UTF-8 file with one JSON object a line; a leading byte order mark is allowed.
        required: Keys that each object must have, whatever their value.

    Returns:
        An iterator over `(line, object)`; lines count from 1.

    Raises:
        FileNotFoundError: If no file is at `path`.
        ValueError: If the file is gzip; if a line is not UTF-8, not a JSON object or lacks a key.
    """
    if isinstance(required, str):
        raise ValueError(
            f"required={required!r} is one string; give a list of keys: [{required!r}]."
        )
    return _objects(check_text_file(path, "a JSON Lines file"), tuple(required))


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield each line of a UTF-8 text file that is not blank, stripped, with its number from 1.

    Raises:
        FileNotFoundError: If no file is at `path`.
        ValueError: If the file is gzip, or if a line is not UTF-8 or holds a NUL byte.
    """
    return _decoded_lines(check_text_file(path, "a text file"))


def check_text_file(path: str | Path, expected: str) -> Path:
    """Return `path` as a `Path` if it is a file that is not gzip-compressed.

    Args:
        path: The file to look at; its first two bytes are read.
        expected: What should be there, for the error, such as "a text file".

    Raises:
        FileNotFoundError: If nothing, or a folder, is at `path`.
        ValueError: If the file starts as gzip does.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected {expected}, nothing is there; check the path.")
    if path.is_dir():
        raise FileNotFoundError(f"{path}: expected {expected}, found a folder; name a file in it.")
    if path.is_file():
        with path.open("rb") as stream:
            if stream.read(2) == _GZIP_MAGIC:
                raise ValueError(
                    f"{path}: expected {expected}, found gzip data; unpack it with gunzip first."
                )
    return path


def _decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    # Bytes, so that only "\n" ends a line: text mode would hide which line is not UTF-8.
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1:
                raw = raw.removeprefix(_UTF8_BOM)
            if b"\x00" in raw:
                raise ValueError(
                    f"{path} line {number}: holds a NUL byte, so it is binary or UTF-16; "
                    "give a UTF-8 text file."
                )
            try:
                line = raw.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path} line {number}: not UTF-8 (byte 0x{raw[error.start]:02x} at column "
                    f"{error.start + 1}); convert the file to UTF-8."
                ) from error
            if line:
                yield number, line


def _objects(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _decoded_lines(path):
        try:
            value = json.loads(line)
        # RecursionError: a line nested thousands deep is bad input as well, not a fault of ours.
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} line {number}: not JSON ({error}): {_excerpt(line)}; "
                "each line must be one JSON object."
            ) from error
        if not isinstance(value, dict):
            raise ValueError(
                f"{path} line {number}: a JSON {type(value).__name__}, not an object: "
                f"{_excerpt(line)}; each line must be one JSON object."
            )
        for key in required:
            if key not in value:
                found = ", ".join(repr(name) for name in list(value)[:8]) or "none"
                raise ValueError(
                    f"{path} line {number}: lacks the key {key!r}; its keys are: {found}."
                )
        yield number, value


def _excerpt(line: str) -> str:
    return repr(line if len(line) <= _EXCERPT_LENGTH else line[:_EXCERPT_LENGTH] + "...")
