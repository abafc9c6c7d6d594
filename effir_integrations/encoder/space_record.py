"""Whose documents the queries of a model can search, as its `effir.json` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..fields import blamed_on, check_fields, from_mapping
from ..files import read_json
from ..model.modeling import HISTORY_FILE
from .model_files import identify_files
from .sources import find_encoder, hub_file

SPACE = "space"
"""The key of `effir.json`."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """A model whose vectors of documents those of another are compared with."""

    name: str
    """Folder or hub name, as given."""
    files: str
    """Identity of its files, as of `identify_files`: the fingerprint that stores are known by."""
    same_documents: bool = False
    """Whether the other gives documents that model's very vectors, rather than some near them."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.files:
            raise ValueError("files must not be empty")


def space_of(name: str | Path, revision: str | None = None) -> Space | None:
    """Return what the `effir.json` of a model says about its space; None where it says nothing.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: The file is damaged.
    """
    source = find_encoder(name, revision)
    path = Path(source) / HISTORY_FILE
    found = path if Path(source).is_dir() else hub_file(source, HISTORY_FILE, revision)
    return None if found is None else space_in(found)


def space_in(path: Path) -> Space | None:
    """Return what an `effir.json` says about the space; None where there is none, or no word of it.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.is_file():
        return None
    content: Mapping[str, Any] = read_json(path, "the history of a model")
    if content.get(SPACE) is None:
        return None
    with blamed_on(f"{path}: {SPACE}"):
        return from_mapping(Space, content[SPACE])


def documents_of(name: str | Path, revision: str | None = None) -> Space:
    """Return the model that gives documents the vectors that this one gives: mostly itself.

    Raises:
        FileNotFoundError: There is no such model, or a weight file is missing.
        ValueError: A file is damaged.
    """
    recorded = space_of(name, revision)
    if recorded is not None and recorded.same_documents:
        return recorded
    return encodes_as(name, revision)


def encodes_as(name: str | Path, revision: str | None = None) -> Space:
    """Return a model as one in whose own space it is, whatever its `effir.json` says.

    Raises:
        FileNotFoundError: There is no such model, or a weight file is missing.
        ValueError: A file is damaged.
    """
    files = identify_files(name, revision).identity
    return Space(name=str(name), files=files, same_documents=True)


def space_made_of(name: str | Path, revision: str | None = None) -> Space:
    """Return the space of what is pruned from a model, or trained to give its vectors.

    Raises:
        FileNotFoundError: There is no such model, or a weight file is missing.
        ValueError: A file is damaged.
    """
    recorded = space_of(name, revision) or documents_of(name, revision)
    return Space(name=recorded.name, files=recorded.files)
