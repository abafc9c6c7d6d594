"""Import the optional packages of the evaluation, or say how to install them."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str) -> Any:
    """Import a package of the extra `eval`.

    Args:
        module: Its import name: "faiss", "ir_measures" or "datasets".

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
            'pip install "effir-integrations[eval]"',
            name=module,
        ) from error
