"""Blame damaged JSON of a model folder on the file and its field, before weights are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import CONFIG_MAPPING

from ..fields import blamed_on, check_fields, from_mapping
from ..files import inside, read_any_json, read_json

_MODULES = "the list of modules of a Sentence Transformers folder, each with a type and a path"


@dataclass(frozen=True, kw_only=True)
class _Anything:
    """Fields of a file that are checked when it is made of them; of most files, none is known."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class _Module(_Anything):
    type: str
    path: str


@dataclass(frozen=True, kw_only=True)
class _Settings(_Anything):
    max_seq_length: int | None = None
    do_lower_case: bool = False
    transformer_task: str = ""


@dataclass(frozen=True, kw_only=True)
class _Prompts(_Anything):
    prompts: Mapping[str, str | None] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Pooling(_Anything):
    pooling_mode: str | tuple[str, ...] = "mean"
    embedding_dimension: int | None = None
    word_embedding_dimension: int | None = None
    include_prompt: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        modes = {self.pooling_mode} if isinstance(self.pooling_mode, str) else self.pooling_mode
        if not set(modes) <= set(Pooling.POOLING_MODES):
            raise ValueError(
                f"pooling_mode={self.pooling_mode!r} is not known; choose from "
                f"{', '.join(Pooling.POOLING_MODES)}"
            )


def check_folder(folder: Path, transformer: Path) -> None:
    """Refuse a model folder whose JSON files are damaged.

    Args:
        folder: Where modules.json lies, if there is one.
        transformer: Where config.json lies.

    Raises:
        FileNotFoundError: The config of a pooling module is missing.
        ValueError: Names the file and the field; or a module lies outside of the folder.
    """
    check_config(transformer)
    for place in {folder, transformer}:
        for path in sorted(place.glob("sentence_*_config.json")):
            _check_known(path, _Settings)
        for name, kind in (
            ("config_sentence_transformers.json", _Prompts),
            ("tokenizer_config.json", _Anything),
        ):
            if (place / name).is_file():
                _check_known(place / name, kind)
    if not (folder / "modules.json").is_file():
        return
    for module in read_modules(folder)[1:]:
        path = inside(folder, module["path"]) / "config.json"
        is_pooling = module["type"].endswith(".Pooling")
        if module["path"] and (is_pooling or path.is_file()):
            _check_known(path, _Pooling if is_pooling else _Anything)


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """Return what modules.json lists.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no list of modules that lie in the folder.
    """
    path = folder / "modules.json"
    modules = read_any_json(path, _MODULES)
    if not isinstance(modules, list) or not modules:
        raise ValueError(f"{path} holds no list of modules; expected {_MODULES}")
    for place, module in enumerate(modules):
        with blamed_on(f"{path}: module {place}"):
            _of_known(module, _Module)
        inside(folder, module["path"])
    return modules


def _check_known(path: Path, kind: type) -> None:
    content = read_json(path, "settings of a Sentence Transformers folder")
    with blamed_on(path):
        _of_known(content, kind)


def _of_known(content: Any, kind: type) -> None:
    """Check the fields that are known of a kind of file; others are not ours to judge."""
    known = {field.name for field in fields(kind)}
    if isinstance(content, Mapping):
        content = {name: value for name, value in content.items() if name in known}
    from_mapping(kind, content)


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer.json that cannot be read; there may be none.

    Raises:
        ValueError: Names the file.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the class of all that it raises
        raise ValueError(
            f"{path} is no tokenizer ({' '.join(str(error).split())[:200]}); copy or download it "
            "again"
        ) from error


def check_config(folder: Path) -> None:
    """Refuse a config that is no JSON object, or names a type or a precision that there is not.

    Raises:
        ValueError: Names the file.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    content = read_json(path, "the config of a model")
    kind = content.get("model_type", "bert")
    if not isinstance(kind, str) or (kind not in CONFIG_MAPPING and "auto_map" not in content):
        raise ValueError(
            f"{path}: model_type={kind!r} is no type that this version of Transformers knows; give "
            "one such as bert, or install a version that knows it"
        )
    for key in ("dtype", "torch_dtype"):
        name = content.get(key)
        known = name in (None, "auto") or isinstance(name, dict)
        if not known and not isinstance(_torch_member(name), torch.dtype):
            raise ValueError(
                f"{path}: {key}={name!r} is no precision of PyTorch; give one such as float32"
            )


def _torch_member(name: object) -> object:
    return getattr(torch, str(name).removeprefix("torch."), None)


@contextmanager
def blamed_on_config(place: Path | str) -> Iterator[None]:
    """Turn the refusal of a value by Transformers' config classes into one that names the file.

    Raises:
        ValueError: A field of the config has a value of another type.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except StrictDataclassError as error:
        place = place / "config.json" if isinstance(place, Path) else f"the config of {place}"
        reason = " ".join(str(error).split())
        raise ValueError(f"{place}: {reason}; put back the value it was saved with") from error


_NO_CHOICES = {
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "dtype",
    "torch_dtype",
    "transformers_version",
}
"""Keys of a config that say where a model lies or what ran it, not what it computes."""


def differing(first: Any, second: Any) -> list[str]:
    """Return the keys in which two configs ask for other computations, sorted."""
    one, other = _choices(first), _choices(second)
    # whether keys are kept for a next token, which no embedding needs
    keys = (one.keys() | other.keys()) - {"use_cache"}
    return sorted(key for key in keys if one.get(key) != other.get(key))


def _choices(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in _NO_CHOICES}
