"""Make `AutoConfig` know the pruned model types before any class of them is made.

Transformers loads its Auto classes in the middle of loading others, when the bases of our classes
cannot be imported yet, and a model of one family needs the files of that family alone. So stand-ins
are registered, which make the class they stand for when they are first used.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .deferred import deferred
from .families import ARCHITECTURES


def register(auto_config: Any) -> None:
    """Register stand-ins for the config classes of all pruned families with `AutoConfig`."""
    for architecture in ARCHITECTURES.values():
        name = f"Effir{architecture.class_prefix}Config"
        config = deferred(name, partial(_config_class, architecture.family))
        auto_config.register(architecture.model_type, config, exist_ok=True)


def _config_class(family: str) -> Any:
    from .modeling import config_class

    return config_class(family)
