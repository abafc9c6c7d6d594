"""Config and model classes of pruned checkpoints: `effir_bert`, `effir_mistral`, and so on.

A class calls the stock `__init__`, then narrows and removes sublayers, so no modelling code is
copied, and device maps, PEFT, quantisation and attention kernels are inherited. The same source
serves a folder that loads without this package: see `standalone_source`.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from ..files import read_json, write_json
from . import surgery
from .deferred import deferred
from .families import ARCHITECTURES, PREFIX, Architecture
from .surgery import reshape

if TYPE_CHECKING:
    from transformers import PretrainedConfig

STANDALONE_FILE = "modeling_effir.py"
HISTORY_FILE = "effir.json"


def pruned_config_class(architecture: Any, module: str) -> type:
    """Make the config class of one family; `module` is where it is found by name."""
    prefix = architecture.class_prefix
    base_config: Any = getattr(transformers, f"{prefix}Config")

    class PrunedConfig(base_config):
        """The base config plus the shape that is left."""

        model_type = f"effir_{architecture.family}"

        mlp_widths: list[int] | None = None
        dropped_attention: list[int] | None = None
        mlp_output_bias: bool = False
        mlp_gates: bool = False

        def __post_init__(self, **kwargs: Any) -> None:
            super().__post_init__(**kwargs)
            self.auto_map = {
                "AutoConfig": f"modeling_effir.Effir{prefix}Config",
                "AutoModel": f"modeling_effir.Effir{prefix}Model",
            }

    PrunedConfig.__name__ = PrunedConfig.__qualname__ = f"Effir{prefix}Config"
    PrunedConfig.__module__ = module
    return PrunedConfig


def pruned_model_class(
    architecture: Architecture, config: type, module: str, *mixins: type
) -> type:
    """Make the model class of one family; `module` is where it is found by name."""
    prefix = architecture.class_prefix
    base_model: Any = getattr(transformers, f"{prefix}Model")

    class PrunedModel(*mixins, base_model):  # type: ignore[misc]
        """The base model without the sublayers and neurons that its config leaves out."""

        config_class = config
        # a half-precision gate never moves from 1: the steps are smaller than its spacing
        _keep_in_fp32_modules_strict = {
            *(getattr(base_model, "_keep_in_fp32_modules_strict", None) or ()),
            "neuron_gate",
        }

        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            reshape(self, architecture, config)
            if getattr(config, "is_causal", True) is False:
                # Transformers goes by the config, others, such as vLLM, by what the modules say
                for module in self.modules():
                    if hasattr(module, "is_causal"):
                        module.is_causal = False

        def _init_weights(self, module: Any) -> None:
            super()._init_weights(module)
            if hasattr(module, "neuron_gate"):
                torch.nn.init.ones_(module.neuron_gate)

    PrunedModel.__name__ = PrunedModel.__qualname__ = f"Effir{prefix}Model"
    PrunedModel.__module__ = module
    return PrunedModel


class WritesItsCode:
    """Saves modelling file and history beside the weights, whoever calls `save_pretrained`."""

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save as the base class does, then write the file that `auto_map` names."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        family = self.config.model_type.removeprefix(PREFIX)  # type: ignore[attr-defined]
        write_standalone(ARCHITECTURES[family], Path(save_directory))
        _keep_history(self, Path(save_directory))


def _keep_history(model: Any, folder: Path) -> None:
    """Write the history that lies where the model was loaded from, unless its shape changed.

    The weights may have been trained since, so it names no space any more.
    """
    path = Path(str(model.name_or_path)) / HISTORY_FILE
    if not path.is_file():
        return
    history, config = read_json(path, "the history of a pruned model"), model.config
    dropped = {*history.get("drop_attention", ()), *history.get("dropped_attention_before", ())}
    same_mlps = history.get("mlp_widths") == list(config.mlp_widths or ())
    if same_mlps and dropped == set(config.dropped_attention or ()):
        kept = {key: value for key, value in history.items() if key != "space"}
        write_json(folder / HISTORY_FILE, kept)


_STANDALONE_HEADER = '''"""Pruned {prefix} model, written by effir-integrations (Apache-2.0).

Where the effir-integrations package is imported this folder loads without any flag, and this file
is not used. Where it is not, `trust_remote_code=True` loads the folder through this file.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import nn
'''


def standalone_source(architecture: Architecture) -> str:
    """Return a modelling file for one family that needs torch and transformers alone.

    It is put together from the source of this package, so the two cannot differ.
    """
    parts = (
        surgery.NoSublayer,
        surgery.NoAttention,
        surgery.stand_in,
        surgery.projection_shape,
        surgery.new_projection,
        surgery.narrow,
        surgery.gate_neurons,
        surgery.add_gate,
        surgery.reshape,
        pruned_config_class,
        pruned_model_class,
    )
    prefix = architecture.class_prefix
    facts = "".join(f"    {name}={value!r},\n" for name, value in asdict(architecture).items())
    return "\n\n".join(
        [
            _STANDALONE_HEADER.format(prefix=prefix),
            *(inspect.getsource(part) for part in parts),
            f"ARCHITECTURE = SimpleNamespace(\n{facts})\n"
            f"Effir{prefix}Config = pruned_config_class(ARCHITECTURE, __name__)\n"
            f"Effir{prefix}Model = pruned_model_class("
            f"ARCHITECTURE, Effir{prefix}Config, __name__)\n",
        ]
    )


def write_standalone(architecture: Architecture, folder: Path) -> None:
    """Write the modelling file that `auto_map` names into a model folder."""
    (folder / STANDALONE_FILE).write_text(standalone_source(architecture), encoding="utf-8")


def config_class(family: str) -> Any:
    """Return the class, a `PretrainedConfig`, of pruned models of one family or model type."""
    return _class(family, "Config")


def model_class(family: str) -> Any:
    """Return the class, a `PreTrainedModel`, of pruned models of one family or model type."""
    return _class(family, "Model")


def _class(family: str, kind: str) -> Any:
    prefix = ARCHITECTURES[family.removeprefix(PREFIX)].class_prefix
    return getattr(sys.modules[__name__], f"Effir{prefix}{kind}")


def __getattr__(name: str) -> Any:
    """Make the class of that name, whose base takes a file of its own to load, and register it."""
    for row in ARCHITECTURES.values():
        if name == f"Effir{row.class_prefix}Config":
            return _made_config(row)
        if name == f"Effir{row.class_prefix}Model":
            return _made_model(row)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _made_config(row: Architecture) -> Any:
    made: Any = pruned_config_class(row, __name__)
    globals()[made.__name__] = made
    transformers.AutoConfig.register(row.model_type, made, exist_ok=True)
    model = deferred(
        f"Effir{row.class_prefix}Model", lambda: model_class(row.family), config_class=made
    )
    transformers.AutoModel.register(made, model, exist_ok=True)
    return made


def _made_model(row: Architecture) -> Any:
    config = config_class(row.family)
    made: Any = pruned_model_class(row, config, __name__, WritesItsCode)
    globals()[made.__name__] = made
    transformers.AutoModel.register(config, made, exist_ok=True)
    return made


def pruned_config(
    base: PretrainedConfig,
    *,
    mlp_widths: list[int],
    dropped_attention: list[int],
    mlp_output_bias: bool = False,
    mlp_gates: bool = False,
) -> PretrainedConfig:
    """Return the config of a pruned model; everything else stays as in the base config."""
    family = base.model_type.removeprefix(PREFIX)
    values = base.to_dict()
    for name in ("model_type", "architectures", "transformers_version", "auto_map"):
        values.pop(name, None)
    values.update(
        mlp_widths=mlp_widths,
        dropped_attention=dropped_attention,
        mlp_output_bias=mlp_output_bias,
        mlp_gates=mlp_gates,
    )
    return config_class(family)(**values)
