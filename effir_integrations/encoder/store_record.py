"""Which model encoded stored documents: `effir.json` in a folder, `NAME.effir` beside a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..fields import blamed_on, check_fields, from_mapping
from ..files import read_json, write_json

_FORMAT = "effir-vectors/1"


@dataclass(frozen=True, kw_only=True)
class StoreRecord:
    """Whose vectors a store, or a file of vectors, holds."""

    model: str
    """Folder or hub name, as given."""
    fingerprint: str
    """Of its files; a model given as an object has that of its weights."""
    dimension: int
    """Numbers a vector."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else decides about the vectors, such as the prompt."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dimension < 1 or not self.fingerprint:
            raise ValueError(
                f"dimension={self.dimension} must be at least 1, and fingerprint="
                f"{self.fingerprint!r} must not be empty"
            )

    def save(self, place: Path) -> None:
        """Write it to where `load` finds it; a folder that is not there is made."""
        path = record_path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def load(cls, place: Path) -> StoreRecord | None:
        """Read what is said about a folder or a file of vectors; None if nothing is.

        Raises:
            ValueError: The record holds something else.
        """
        path = record_path(place)
        if not path.is_file():
            return None
        content = read_json(path, "what effir wrote about a store of vectors")
        found = content.pop("format", None)
        if found != _FORMAT:
            raise ValueError(
                f"{path} has the format {found!r}, not {_FORMAT!r}; give the place of a store"
            )
        with blamed_on(path):
            return from_mapping(cls, content)


def record_path(place: Path) -> Path:
    """Return where the record of a store lies: in a folder, and beside a file.

    What is not there yet is a file if its name has an ending. Beside a file the record ends in
    none that readers of vectors look for in a folder.
    """
    if place.is_dir() or not (place.suffix or place.is_file()):
        return place / "effir.json"
    return place.with_name(f"{place.name}.effir")
