"""Smaller, faster embedding models: analyze, drop, reconstruct or slim, train, export, evaluate.

Importing the package registers the pruned model types with Transformers, so that a folder written
by `export` loads with `SentenceTransformer(folder)` and no flag. Everything else loads on use.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .model import modeling as _modeling  # noqa: F401 - registers the effir_* model types

if TYPE_CHECKING:
    from .cli.shown import show
    from .encoder.encoder import Encoder
    from .encoder.loading import load
    from .encoder.mini import mini_path
    from .encoder.space import check_space
    from .evaluation.evaluate import evaluate
    from .pruning.analyze import analyze
    from .pruning.compress import CompressConfig, compress
    from .pruning.drop import drop
    from .pruning.export import export
    from .pruning.reconstruct import reconstruct
    from .pruning.slim import slim
    from .training.distill import distill
    from .training.finetune import finetune

_HOMES = {
    "CompressConfig": "pruning.compress",
    "Encoder": "encoder.encoder",
    "analyze": "pruning.analyze",
    "check_space": "encoder.space",
    "compress": "pruning.compress",
    "distill": "training.distill",
    "drop": "pruning.drop",
    "evaluate": "evaluation.evaluate",
    "export": "pruning.export",
    "finetune": "training.finetune",
    "load": "encoder.loading",
    "mini_path": "encoder.mini",
    "reconstruct": "pruning.reconstruct",
    "show": "cli.shown",
    "slim": "pruning.slim",
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
