"""Read a base model's checkpoint on disk: its names, shapes and identity, without its weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel

from .apply import check_config_code
from .families import find
from .identity import BaseIdentity, output_weights
from .peft_folder import check_merged
from .safetensors_files import StoredTensor, belongs, check_checkpoint, is_left_out
from .shards import STORED_DTYPES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

_INSTEAD = "load it and use the in-memory export instead"


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredBase:
    """A checkpoint that is whole and has every tensor of its base class, in its shape."""

    folder: Path
    """Where config.json lies."""
    model: PreTrainedModel
    """The class that `AutoModel` returns, on the meta device."""
    tensors: Mapping[str, StoredTensor]
    """By the name that the class gives them."""

    @classmethod
    def read(cls, folder: Path) -> StoredBase:
        """Read config and headers, and check them against each other.

        Raises:
            FileNotFoundError: The config, the weights or a shard are missing.
            ValueError: The family is not supported, a shard is truncated, or the tensors are not
                those of the base class, alone or inside a model with a head.
        """
        config = checked_config(folder)
        check_names(config, folder)
        stored = check_checkpoint(folder)
        if config.dtype is None:  # as when it is loaded
            config.dtype = next(
                (STORED_DTYPES[x.dtype] for x in stored if x.dtype in STORED_DTYPES), None
            )
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        tensors = _by_class_name(stored, model, folder)
        for name, expected in model.state_dict().items():
            if name in tensors:
                _check_tensor(name, tensors[name], tuple(expected.shape))
        return cls(folder=folder, model=model, tensors=tensors)

    def identity(self) -> BaseIdentity:
        """Return what `BaseIdentity.of` gives for the loaded model, from a row a projection."""
        tensors = (self.tensors[name] for name in output_weights(self.model))
        rows = (_first_row(tensor, self.model.dtype) for tensor in tensors)
        return BaseIdentity.of_rows(self.model, rows, str(self.folder))


def check_names(config: PretrainedConfig, folder: Path) -> None:
    """Refuse a family whose checkpoints name their tensors otherwise than its class.

    Raises:
        ValueError: The family is `stored_otherwise`.
    """
    if find(config).stored_otherwise:
        raise ValueError(
            f"{folder} holds a {config.model_type}, which Transformers stores under other names "
            "than its class has, so it is not read tensor by tensor; leave from_disk out: "
            f"{_INSTEAD}"
        )


def checked_config(folder: Path) -> PretrainedConfig:
    """Return the config of a checkpoint that stands for itself.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The family is not supported, or the weights need more than the config's class.
    """
    check_merged(folder, folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json; give the folder of a Hugging Face checkpoint"
        )
    config = AutoConfig.from_pretrained(folder)
    find(config)
    check_config_code(config)
    for name in ("quantization_config", "transformers_weights"):
        if getattr(config, name, None):
            raise ValueError(
                f"the config of {folder} has {name}, which is only understood by loading the "
                f"model; {_INSTEAD}"
            )
    return config


def _by_class_name(
    stored: Iterable[StoredTensor], model: PreTrainedModel, folder: Path
) -> dict[str, StoredTensor]:
    prefix = f"{model.base_model_prefix}."
    expected = model.state_dict().keys()
    found: dict[str, StoredTensor] = {}
    others = []
    for tensor in stored:
        name = tensor.name if tensor.name in expected else tensor.name.removeprefix(prefix)
        if name in found:
            raise ValueError(
                f"{folder} stores {name} twice, in {found[name].file.name} and "
                f"{tensor.file.name}; {_INSTEAD}"
            )
        if name in expected:
            found[name] = tensor
        else:
            others.append(tensor.name)
    _check_none_missing(found, others, model, folder)
    _sort_left_out(found, others, model, folder)
    return found


def _check_none_missing(
    found: Collection[str], others: list[str], model: PreTrainedModel, folder: Path
) -> None:
    expected = model.state_dict().keys()
    missing = [name for name in expected if name not in found]
    if missing and missing == list(filter(is_left_out, expected)):
        logger.info("%s has no pooler, and none is written", folder)
    elif missing:
        instead = f" (it has {min(others)!r}, for one, which that class has not)" if others else ""
        raise ValueError(
            f"{folder} lacks {len(missing)} of the {len(expected)} tensors of "
            f"{type(model).__name__}, {missing[0]!r} for one{instead}; if they have other names in "
            f"this checkpoint, {_INSTEAD}"
        )


def _sort_left_out(
    found: Mapping[str, StoredTensor], others: list[str], model: PreTrainedModel, folder: Path
) -> None:
    """Report every group of tensors that the base class does not declare; refuse its own kind."""
    prefix = f"{model.base_model_prefix}."
    has_head = any(tensor.name != name for name, tensor in found.items())
    buffers = {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    ignored = list(model._keys_to_ignore_on_load_unexpected or ())
    groups: dict[str, list[str]] = {"a head": [], "computed buffers": [], "unknown tensors": []}
    for name in others:
        if name.rpartition(".")[2] in buffers or any(re.search(x, name) for x in ignored):
            groups["computed buffers"].append(name)
        elif has_head and not name.startswith(prefix):
            groups["a head"].append(name)
        else:
            groups["unknown tensors"].append(name)
    if has_head:
        logger.info("%s: the prefix %r of a model with a head goes", folder, prefix)
    if own := [name for name in groups["unknown tensors"] if belongs(name, model)]:
        raise ValueError(
            f"{folder} holds {len(own)} tensors that its config leaves out of "
            f"{type(model).__name__}, {min(own)!r} for one; put the config and the weights of one "
            "model together"
        )
    for group, names in groups.items():
        if names:
            level = logging.WARNING if group == "unknown tensors" else logging.INFO
            listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            logger.log(level, "%s: %d left out, %s: %s", folder, len(names), group, listed)


def _check_tensor(name: str, tensor: StoredTensor, expected: tuple[int, ...]) -> None:
    if tensor.dtype not in STORED_DTYPES:
        raise ValueError(
            f"{name} in {tensor.file} is stored as {tensor.dtype}, which is not a plain float; "
            f"choose a checkpoint in one of {', '.join(STORED_DTYPES)}"
        )
    if tensor.shape != expected:
        raise ValueError(
            f"{name} in {tensor.file} has shape {tensor.shape}, but config.json asks for "
            f"{expected}; put the config and the weights of one model together"
        )


def _first_row(tensor: StoredTensor, dtype: torch.dtype) -> torch.Tensor:
    """Read the first row, rounded as loading in the config's dtype rounds it."""
    with safe_open(tensor.file, "pt") as file:
        row: torch.Tensor = file.get_slice(tensor.name)[0]
    return row.to(dtype)
