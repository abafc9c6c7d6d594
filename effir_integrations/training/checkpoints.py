"""Which files of a stage were written to their end, and whether they are still what was written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..fields import blamed_on, check_fields, from_mapping
from ..files import file_sha256, read_json, write_json

WHOLE = "whole.json"
"""Stands in a checkpoint once everything else does, and lists it."""


@dataclass(frozen=True, kw_only=True)
class _Sealed:
    """What a file was when it was written."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_fields(self)


def seal(listing: Path, files: Iterable[Path]) -> None:
    """Write down which files lie beside `listing`, each with its size and SHA-256."""
    content = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(files)
    }
    write_json(listing, content)


def check_sealed(listing: Path) -> None:
    """Refuse files that are not those that were written down.

    Raises:
        ValueError: One is missing or was changed; names it.
    """
    folder = listing.parent
    for name, content in read_json(listing, "a list of files with their hashes").items():
        with blamed_on(f"{listing}: {name}"):
            wanted = from_mapping(_Sealed, content)
        path = folder / name
        if not path.is_file():
            what = "is missing"
        elif path.stat().st_size != wanted.bytes:
            what = f"has {path.stat().st_size:,} bytes, not {wanted.bytes:,}"
        elif file_sha256(path) != wanted.sha256:
            what = "holds other bytes than were written"
        else:
            continue
        raise ValueError(
            f"{path} {what}, so training cannot resume; put it back, or start over (--force)"
        )


def seal_checkpoint(folder: Path) -> None:
    """Mark a checkpoint as written to its end."""
    listing = folder / WHOLE
    seal(listing, (path for path in folder.iterdir() if path.is_file() and path != listing))


def last_checkpoint(work: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end."""
    whole = [folder for folder in work.glob("checkpoint-*") if (folder / WHOLE).is_file()]
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def remove_partial_checkpoints(work: Path) -> None:
    """Remove the checkpoints that a killed run was still writing."""
    for folder in work.glob("checkpoint-*"):
        if not (folder / WHOLE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
