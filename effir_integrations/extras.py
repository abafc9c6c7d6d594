"""Import optional packages, or say how to install them."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str, extra: str = "eval") -> Any:
    """Import a package that one of the extras installs.

    Args:
        module: Its import name, such as "faiss", "ir_measures", "datasets" or "peft".
        extra: The extra to name if it is missing.

    Raises:
        ImportError: If the package is not installed; names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ImportError(
            f"the package {module!r} is not installed; install it with: "
            f'pip install "effir-integrations[{extra}]"',
            name=module,
        ) from error
