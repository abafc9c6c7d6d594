"""Tell one model folder from another by its files, before any weight is loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..files import file_sha256
from ..model.peft_folder import blamed_on_base, find_adapter

_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Of the files that decide what a model computes: not of its card."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Which model a folder or a hub name stands for."""

    name: str
    """Absolute folder, or name on the hub: what finds the model from any process."""
    identity: str
    """SHA-256 over the files of a folder, or name and commit on the hub; an adapter's base too."""
    revision: str | None
    """Commit on the hub, where it is known."""


def identify_files(model: str | Path, revision: str | None = None) -> ModelFiles:
    """Say which model a name stands for, by its files; a folder is read as a whole, once.

    Raises:
        FileNotFoundError: There is no such model, here or on the hub, or a weight file is missing.
        ValueError: A weight file is damaged.
    """
    from .sources import config_place, find_encoder, hub_commit, is_pair, read_config

    folder = Path(find_encoder(model, revision))
    if not folder.is_dir() and not is_pair(model, revision):
        read_config(str(model), revision=revision)
    adapter = find_adapter(config_place(str(folder)), revision=revision)
    base = ""
    if adapter is not None:
        with blamed_on_base(adapter):
            base = f" on {identify_files(adapter.base, adapter.base_revision).identity}"
    if not folder.is_dir():
        commit = hub_commit(str(folder), revision) or revision
        return ModelFiles(name=str(model), identity=f"{model} at {commit}{base}", revision=commit)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _SUFFIXES and path.is_file():
            facts = path.stat()
            content = _sha256(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)
            digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return ModelFiles(
        name=str(folder.resolve()), identity=f"sha256 {digest.hexdigest()}{base}", revision=None
    )


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int, inode: int) -> str:
    # size, time and inode are there to tell a file that was replaced
    return file_sha256(path)
