"""Folders and hub names that hold a LoRA adapter instead of weights: of which base, and whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig
from transformers.utils import cached_file, find_adapter_config_file

from ..extras import import_extra
from ..files import read_json
from .config_file import differing
from .safetensors_files import INDEX, SINGLE, read_shard

if TYPE_CHECKING:
    from transformers import PretrainedConfig


CONFIG = "adapter_config.json"


WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter on disk or on the hub, and what it is put on."""

    name: str
    """Folder or hub name that holds it."""
    base: str
    """Folder or hub name of its base, as `find_source` takes it."""
    base_revision: str | None
    """Of a base on the hub, where the adapter states one."""
    folder: Path
    """Where its files lie; those of the hub are in its cache."""
    place: Mapping[str, Any]
    """Revision and subfolder on the hub."""

    def file(self, name: str) -> Path | None:
        """Return one of its files, or None where it has none of that name."""
        found = cached_file(
            self.name,
            name,
            **self.place,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return Path(found) if found else None

    def weights(self) -> Path:
        """Return the file of its weights after checking that it is whole.

        Raises:
            FileNotFoundError: It has none in safetensors.
            ValueError: The file is damaged.
        """
        found = self.file(WEIGHTS)
        if found is None:
            raise FileNotFoundError(
                f"{self.name} holds {CONFIG} and no {WEIGHTS}; only safetensors weights are read, "
                "so convert pickled ones first (load them with peft and call save_pretrained)"
            )
        read_shard(found)
        return found

    def config(self) -> Any:
        """Return peft's config of it.

        Raises:
            ImportError: peft is not installed.
            ValueError: It is of a kind that no weight can take up.
        """
        peft = import_extra("peft", "train")
        kind = str(read_json(self.folder / CONFIG, "the config of an adapter").get("peft_type"))
        tuner = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
        if not hasattr(tuner, "merge_and_unload"):
            raise ValueError(
                f"{self.name} holds an adapter of kind {kind}, which cannot be merged into the "
                "weights of its base; choose one that can, such as LoRA"
            )
        return peft.PeftConfig.from_pretrained(str(self.folder))

    def check_config(self, base: PretrainedConfig) -> None:
        """Refuse a `config.json` beside the adapter that asks for another model than its base.

        Raises:
            ValueError: It does; names the fields.
        """
        if self.file("config.json") is None:
            return
        own = AutoConfig.from_pretrained(self.name, **self.place)
        if changed := differing(own, base):
            raise ValueError(
                f"{self.name} holds an adapter and a config.json that differs from that of its "
                f"base {self.base} in {', '.join(changed[:3])}; merge it in Python with the model "
                "it was trained on, save that, and give its folder"
            )


def find_adapter(
    source: str | Path, *, revision: str | None = None, subfolder: str = ""
) -> Adapter | None:
    """Return the adapter that a folder or a hub name holds, or None where it holds none.

    Raises:
        ValueError: It names no base or itself, lies beside weights, or its config is damaged.
    """
    place: dict[str, Any] = {"revision": revision, "subfolder": subfolder}
    found = find_adapter_config_file(str(source), **place)
    if found is None:
        return None
    folder = Path(found).parent
    if Path(source).is_dir() and any((folder / name).is_file() for name in (SINGLE, INDEX)):
        raise ValueError(
            f"{source} holds an adapter beside the weights; delete {CONFIG} where it is merged "
            f"into them already, or move it with {WEIGHTS} to a folder of its own whose "
            "base_model_name_or_path names this one"
        )
    content = read_json(folder / CONFIG, "the config of an adapter")
    base = content.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{source} holds an adapter whose {CONFIG} names no base; set base_model_name_or_path "
            "to the folder or hub name of the model that it was trained on"
        )
    beside = folder / base
    if beside.is_dir() and beside.samefile(folder):
        raise ValueError(f"{source} holds an adapter that names itself as its base; name another")
    return Adapter(
        name=str(source),
        base=str(beside) if beside.is_dir() else base,
        base_revision=content.get("revision"),
        folder=folder,
        place=place,
    )


def check_merged(source: str | Path, folder: Path) -> None:
    """Refuse to read an adapter's files as those of a model.

    Args:
        source: What was given, for the message.
        folder: Where config and weights would lie.

    Raises:
        ValueError: There lies an adapter.
    """
    if find_adapter(folder) is not None:
        raise ValueError(
            f"{source} carries an adapter, which is merged when it is loaded and not on disk; "
            f"merge it first: effir_integrations.load({str(source)!r}).save_pretrained(OUT)"
        )


def with_bases(sources: Iterable[str | Path]) -> Iterator[str | Path]:
    """Yield folders and hub names, and after an adapter's folder its base."""
    for source in sources:
        yield source
        if (Path(source) / CONFIG).is_file() and (adapter := find_adapter(source)):
            yield from with_bases([adapter.base])


@contextmanager
def blamed_on_base(adapter: Adapter) -> Iterator[None]:
    """Name adapter and base where the base is not there.

    Raises:
        FileNotFoundError: It is not.
    """
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"the adapter {adapter.name} is for the base {adapter.base}, which cannot be read "
            f"({' '.join(str(error).split())[:300]}); set base_model_name_or_path in its {CONFIG} "
            "to where it lies"
        ) from error
