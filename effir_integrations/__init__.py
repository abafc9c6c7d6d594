"""Smaller, faster embedding models: analyze, drop, reconstruct or slim, train, export, evaluate.

Importing the package registers the pruned model types with Transformers, so that a folder written
by `export` loads with `SentenceTransformer(folder)` and no flag. Everything else loads on use.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from . import modeling as _modeling  # noqa: F401 - registers the effir_* model types

if TYPE_CHECKING:
    from .compression.analyze import analyze
    from .compression.compress import CompressConfig, compress
    from .compression.distill import distill
    from .compression.drop import drop
    from .compression.export import export
    from .compression.finetune import finetune
    from .compression.reconstruct import reconstruct
    from .compression.slim import slim
    from .encoder import Encoder
    from .encoding.space import check_space
    from .evaluation.evaluate import evaluate
    from .loading import load
    from .mini import mini_path
    from .shown import show

_HOMES = {
    "CompressConfig": "compression.compress",
    "Encoder": "encoder",
    "analyze": "compression.analyze",
    "check_space": "encoding.space",
    "compress": "compression.compress",
    "distill": "compression.distill",
    "drop": "compression.drop",
    "evaluate": "evaluation.evaluate",
    "export": "compression.export",
    "finetune": "compression.finetune",
    "load": "loading",
    "mini_path": "mini",
    "reconstruct": "compression.reconstruct",
    "show": "shown",
    "slim": "compression.slim",
}

__all__ = [
    "CompressConfig",
    "Encoder",
    "analyze",
    "check_space",
    "compress",
    "distill",
    "drop",
    "evaluate",
    "export",
    "finetune",
    "load",
    "mini_path",
    "reconstruct",
    "show",
    "slim",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "__version__":
        return version("effir-integrations")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return sorted(__all__)
