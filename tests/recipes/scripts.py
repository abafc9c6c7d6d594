"""Import the recipes, which are scripts and no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def recipe_module(name: str) -> ModuleType:
    """Import a recipe by its file name."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their annotations up there
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
