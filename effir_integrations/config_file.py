"""Blame a damaged `config.json` on the file and its field, before weights are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .files import read_json


def check_config(folder: Path) -> None:
    """Refuse a config that is no JSON object, or names a precision that there is not.

    Raises:
        ValueError: Names the file.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    content = read_json(path, "the config of a model")
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
