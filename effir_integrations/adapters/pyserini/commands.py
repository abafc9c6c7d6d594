"""What the preparation of a command gives, and how options of all commands are looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..lazy_encoder import LazyEncoder
from .encoders import EffirDocumentEncoder, EffirQueryEncoder, open_encoder
from .options import Part
from .register import NAME

_DECIDED = (
    "--pooling",
    "--l2-norm",
    "--prefix",
    "--explicit-truncate",
    "--multimodal",
    "--use-openai",
    "--instruction-config",
)


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be run."""

    module: str
    """Of Pyserini."""
    arguments: tuple[str, ...]
    """As given."""
    encoder: LazyEncoder | None
    """Instead of the one that `--encoder` names."""
    scratch: Path
    """Folder for files that are needed while it runs."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What will be run."""

    arguments: tuple[str, ...]
    """Complete."""
    document: EffirDocumentEncoder | None = None
    """Loaded; what class effir stands for."""
    query: EffirQueryEncoder | None = None
    """Loaded; what class effir stands for."""
    written: Path | None = None
    """A file that must be new afterwards."""
    finish: Callable[[], None] = nothing
    """Called if it went well."""
    abandon: Callable[[], None] = nothing
    """Called if it did not."""


def opened(part: Part, request: Request) -> LazyEncoder:
    """Return the encoder that a part names, or the one that was given."""
    name = required(part, "--encoder")
    return request.encoder or open_encoder(
        name, device=part.value("--device"), fp16=part.has("--fp16")
    )


def is_ours(part: Part) -> bool:
    """Whether the encoder is of class effir, which it is if none is named."""
    if not part.has("--encoder-class"):
        part.set("--encoder-class", NAME)
    return part.value("--encoder-class") == NAME


def refuse(part: Part) -> None:
    """Refuse options that our classes would not be given, or would not heed.

    Raises:
        ValueError: One of them is there.
    """
    for option in _DECIDED:
        if part.has(option):
            raise ValueError(
                f"{option} has no effect on encoder class {NAME}: the model folder decides about "
                "pooling, normalisation and prompts; leave it out, or name one of Pyserini's "
                "classes with --encoder-class"
            )


def settle(part: Part, option: str, size: int, holder: str) -> None:
    """Fill in a dimension; Pyserini takes 768 if none is given.

    Raises:
        ValueError: Another one is given.
    """
    given = number(part, option)
    if given not in (None, size):
        raise ValueError(f"{option} {given}: {holder} {size} dimensions; leave {option} out")
    part.set(option, size)


def required(part: Part, option: str) -> str:
    """Return the value of an option.

    Raises:
        ValueError: It is not there.
    """
    value = part.value(option)
    if value is None:
        where = f" after {part.name}" if part.name else ""
        raise ValueError(f"{option} is missing{where}; give it a value")
    return value


def number(part: Part, option: str) -> int | None:
    """Return the value of an option as a number; None if it is not there.

    Raises:
        ValueError: It is no whole number of at least 1.
    """
    value = part.value(option)
    if value is None:
        return None
    if not value.isdigit() or int(value) < 1:
        raise ValueError(f"{option} {value} must be a whole number, at least 1")
    return int(value)


def changed(path: Path | None) -> int | None:
    """Return when a file was last written to, in nanoseconds; None if it is not there."""
    return path.stat().st_mtime_ns if path is not None and path.is_file() else None
