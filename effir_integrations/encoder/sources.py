"""Find what a name stands for: a folder, an adapter, effir-mini, or a model on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig
from transformers.utils.hub import cached_file, extract_commit_hash

from ..model.config_file import blamed_on_config, check_folder
from ..model.families import find
from ..model.peft_folder import CONFIG as ADAPTER
from ..model.peft_folder import blamed_on_base, check_merged, find_adapter
from ..model.safetensors_files import check_checkpoint
from .mini import MINI, mini_path

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..model.families import Architecture


_MARKS = ("config.json", "modules.json", ADAPTER)
"""A folder of a model holds one of these."""
ROUTES = "router_config.json"
"""In a folder of several encoders it says which texts go to which."""
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def find_architecture(
    name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Architecture:
    """Return the table row of a model by its config alone, before its weights are read.

    Raises:
        ValueError: The family is not supported, or the config is damaged.
        FileNotFoundError: There is no such model, here or on the hub, or a weight file is missing.
    """
    source = find_source(name)
    return find(read_config(source, revision=revision, trust_remote_code=trust_remote_code))


def read_config(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PretrainedConfig:
    """Return the config of what `find_source` returned.

    Raises:
        FileNotFoundError: It is neither a folder here nor a model on the hub that can be read.
        ValueError: The config is damaged.
    """
    folder, place = Path(source), config_place(source)
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        adapter = find_adapter(place, revision=revision)
        if adapter is None:
            with blamed_on_config(place):
                return AutoConfig.from_pretrained(place, **shared)
    except OSError as error:
        if folder.is_dir():
            raise
        if is_pair(source, revision):
            raise _several(source) from error
        raise FileNotFoundError(
            f"there is no folder {folder.absolute()}, and {_hub_answer(source, error)}; give the "
            "folder that holds config.json, or a hub name"
        ) from error
    with blamed_on_base(adapter):
        base = find_source(adapter.base)
        config = read_config(
            base, revision=adapter.base_revision, trust_remote_code=trust_remote_code
        )
    adapter.check_config(config)
    return config


def config_place(source: str) -> Path | str:
    """Return the folder where the transformer's config or adapter lies, or a hub name as it is."""
    return transformer_folder(Path(source)) if Path(source).is_dir() else source


def hub_commit(source: str, revision: str | None = None) -> str | None:
    """Return the commit of a model on the hub that is kept here; None of a folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(source).is_dir():
        return None
    marks = (*_MARKS, ROUTES)
    files = (try_to_load_from_cache(source, mark, revision=revision) for mark in marks)
    return next((extract_commit_hash(file, None) for file in files if isinstance(file, str)), None)


def _hub_answer(name: str, error: OSError) -> str:
    """Say in half a sentence why the hub gave no config."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    cause = error.__cause__
    if isinstance(cause, LocalEntryNotFoundError):
        return f"the hub could not be asked for a model {name}, of which nothing is kept here"
    if isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
        return f"no model {name} on the hub"
    return f"{name} on the hub cannot be read ({' '.join(str(error).split())[:200]})"


def find_source(model: str | Path) -> str:
    """Return the folder or hub name that a model is read from, before anything is loaded.

    The one place where effir-mini becomes a folder: that of the package, unless there is a local
    one of that name.

    Raises:
        FileNotFoundError: It is no model folder, or a weight file is missing.
        ValueError: A weight file or a JSON file is damaged, or a module lies outside of the folder.
    """
    name, path = str(model), Path(model)
    if name == MINI and not path.exists():
        path = Path(mini_path())
        name = str(path)
    if not path.is_dir():
        if path.exists() or not _HUB_NAME.fullmatch(name):
            raise FileNotFoundError(
                f"{name} is no model folder (looked at {path.absolute()}); give the folder that "
                "holds config.json, or a hub name"
            )
        return name
    if not any((path / mark).is_file() for mark in _MARKS):
        raise FileNotFoundError(
            f"{name} holds neither config.json nor modules.json; give a Hugging Face or Sentence "
            "Transformers model folder"
        )
    if is_pair(path):
        raise _several(name)
    place = transformer_folder(path)
    check_folder(path, place)
    adapter = find_adapter(place)
    if adapter is None:
        check_checkpoint(place)
        return name
    adapter.config(), adapter.weights()
    with blamed_on_base(adapter):
        find_source(adapter.base)
    return name


def _several(name: str) -> ValueError:
    return ValueError(
        f"{name} holds several encoders, which can be loaded to encode and evaluate, and no "
        "more; give one of them alone, as `effir pair --apart` writes them"
    )


def is_pair(name: str | Path, revision: str | None = None) -> bool:
    """Say whether a name stands for several encoders, in a folder or on the hub."""
    if Path(name).exists():
        return (Path(name) / ROUTES).is_file()
    return hub_file(str(name), ROUTES, revision) is not None


def hub_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """Return where a file of a model on the hub is kept here, or None where it cannot be had."""
    if name == MINI or not _HUB_NAME.fullmatch(name):
        return None
    try:
        found = cached_file(
            name,
            file,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # whoever reads the model says what is wrong with its name
        return None
    return None if found is None else Path(found)


def find_encoder(name: str | Path, revision: str | None = None) -> str:
    """Return what `find_source` does, and several encoders together, which only encode.

    Raises:
        FileNotFoundError: As of `find_source`.
        ValueError: As of `find_source`.
    """
    return str(name) if is_pair(name, revision) else find_source(name)


def find_folder(model: str | Path) -> Path:
    """Return the folder of a model whose files are read as they lie on disk.

    Raises:
        FileNotFoundError: It is no model folder, or a weight file is missing.
        ValueError: A weight file is damaged, a module lies outside of the folder, or the weights
            are to be merged with an adapter.
    """
    source = find_source(model)
    if not Path(source).is_dir():
        read_config(source)
        raise FileNotFoundError(
            f"{source} is a model on the hub and no folder here; download it first (hf download "
            f"{source} --local-dir FOLDER), and give the folder"
        )
    check_merged(source, transformer_folder(Path(source)))
    return Path(source)


def transformer_folder(path: Path) -> Path:
    """Return where config and weights lie: old Sentence Transformers folders use a subfolder."""
    marks = ("config.json", ADAPTER)
    nested = sorted(file.parent for mark in marks for file in path.glob(f"0_*/{mark}"))
    return path if any((path / mark).is_file() for mark in marks) or not nested else nested[0]
