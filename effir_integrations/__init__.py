"""Smaller, faster embedding models: analyze, drop, reconstruct or slim, train, export, evaluate.

Importing the package costs next to nothing: public names load on use, and the pruned model types
are registered when Transformers loads its Auto classes, so that a folder written by `export` loads
with `SentenceTransformer(folder)` and no flag.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from .cli.shown import show
    from .conversion.convert import convert
    from .corpus.to_file import encode_to_file
    from .data.beir import RetrievalData, load_beir
    from .data.calibration import Calibration, load_calibration
    from .data.training_examples import TrainingData, load_training
    from .encoder.encoder import Encoder
    from .encoder.loading import load
    from .encoder.mini import mini_path
    from .encoder.space import check_space
    from .evaluation.check import check
    from .evaluation.compare import compare
    from .evaluation.evaluate import evaluate
    from .model.identity import BaseIdentity
    from .model.plan import ImportanceReport, PruningPlan
    from .pairing.pair import pair
    from .pruning.analyze import analyze
    from .pruning.compress import compress
    from .pruning.config import CompressConfig, DropConfig, ReconstructConfig
    from .pruning.drop import drop
    from .pruning.export import export
    from .pruning.import_pruned import import_pruned
    from .pruning.plan import plan
    from .pruning.plan_config import PlanConfig
    from .pruning.reconstruct import reconstruct
    from .pruning.slim import slim
    from .pruning.slim_config import SlimConfig
    from .training.adapt import adapt
    from .training.config import AdaptConfig, DistillConfig, FinetuneConfig
    from .training.distill import distill
    from .training.finetune import finetune
    from .training.mine import mine
    from .training.score import score
    from .vocabulary.config import TrimConfig
    from .vocabulary.trim import trim

_HOMES = {
    "AdaptConfig": "training.config",
    "BaseIdentity": "model.identity",
    "Calibration": "data.calibration",
    "CompressConfig": "pruning.config",
    "DistillConfig": "training.config",
    "DropConfig": "pruning.config",
    "Encoder": "encoder.encoder",
    "FinetuneConfig": "training.config",
    "ImportanceReport": "model.plan",
    "PlanConfig": "pruning.plan_config",
    "PruningPlan": "model.plan",
    "ReconstructConfig": "pruning.config",
    "RetrievalData": "data.beir",
    "SlimConfig": "pruning.slim_config",
    "TrainingData": "data.training_examples",
    "TrimConfig": "vocabulary.config",
    "adapt": "training.adapt",
    "analyze": "pruning.analyze",
    "check": "evaluation.check",
    "check_space": "encoder.space",
    "compare": "evaluation.compare",
    "compress": "pruning.compress",
    "convert": "conversion.convert",
    "distill": "training.distill",
    "drop": "pruning.drop",
    "encode_to_file": "corpus.to_file",
    "evaluate": "evaluation.evaluate",
    "export": "pruning.export",
    "finetune": "training.finetune",
    "import_pruned": "pruning.import_pruned",
    "load": "encoder.loading",
    "load_beir": "data.beir",
    "load_calibration": "data.calibration",
    "load_training": "data.training_examples",
    "mine": "training.mine",
    "mini_path": "encoder.mini",
    "pair": "pairing.pair",
    "plan": "pruning.plan",
    "reconstruct": "pruning.reconstruct",
    "score": "training.score",
    "show": "cli.shown",
    "slim": "pruning.slim",
    "trim": "vocabulary.trim",
}

__all__ = [
    "AdaptConfig",
    "BaseIdentity",
    "Calibration",
    "CompressConfig",
    "DistillConfig",
    "DropConfig",
    "Encoder",
    "FinetuneConfig",
    "ImportanceReport",
    "PlanConfig",
    "PruningPlan",
    "ReconstructConfig",
    "RetrievalData",
    "SlimConfig",
    "TrainingData",
    "TrimConfig",
    "adapt",
    "analyze",
    "check",
    "check_space",
    "compare",
    "compress",
    "convert",
    "distill",
    "drop",
    "encode_to_file",
    "evaluate",
    "export",
    "finetune",
    "import_pruned",
    "load",
    "load_beir",
    "load_calibration",
    "load_training",
    "mine",
    "mini_path",
    "pair",
    "plan",
    "reconstruct",
    "score",
    "show",
    "slim",
    "trim",
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


class _Registrar(MetaPathFinder):
    """Registers the pruned model types when Transformers loads `AutoConfig`, and not before."""

    auto = "transformers.models.auto.configuration_auto"

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return the spec that others find, with the registration run behind the module."""
        spec = PathFinder.find_spec(name, path, target) if name == self.auto else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register(module)

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _register(auto: ModuleType) -> None:
    importlib.import_module(".model.registration", __name__).register(auto.AutoConfig)


if _Registrar.auto in sys.modules:
    _register(sys.modules[_Registrar.auto])
else:
    sys.meta_path.insert(0, _Registrar())
