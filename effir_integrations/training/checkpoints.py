"""Which checkpoints of a stage were written to their end."""

from __future__ import annotations

import shutil
from pathlib import Path

WHOLE = "whole"
"""Stands in a checkpoint once everything else does."""


def last_checkpoint(work: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end."""
    whole = [folder for folder in work.glob("checkpoint-*") if (folder / WHOLE).is_file()]
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def remove_partial_checkpoints(work: Path) -> None:
    """Remove the checkpoints that a killed run was still writing."""
    for folder in work.glob("checkpoint-*"):
        if not (folder / WHOLE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
