"""`effir VERB`: the package's functions on names and paths."""

from __future__ import annotations

from . import (  # noqa: F401 - registers the verbs
    check,
    convert,
    encode,
    import_pruned,
    measure,
    pair,
    plan,
    prune,
    train,
    train_data,
    trim,
)
from .app import app

__all__ = ["app", "main"]

_ORDER = (
    "compress plan trim compare analyze drop slim reconstruct export import convert pair adapt "
    "finetune distill mine score encode evaluate check show demo"
).split()
app.registered_commands.sort(key=lambda command: _ORDER.index(command.name or ""))


def main() -> None:
    """Run the command line and leave with an exit code that says how it ended."""
    app()
