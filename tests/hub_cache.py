"""Models that look as if they had been downloaded from the hub."""

from __future__ import annotations

import shutil
from pathlib import Path


def publish(folder: Path, name: str, commit: str, cache: Path) -> None:
    """Lay a folder into the hub's cache as what was downloaded from there."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(commit)
