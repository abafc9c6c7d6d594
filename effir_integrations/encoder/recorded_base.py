"""Follow the name of a base that a run folder or a model folder records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..model.identity import BaseIdentity, first_rows
from .sources import find_architecture

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def base_source(given: str | None, recorded: str, folder: Path, *, option: str = "--model") -> str:
    """Return the model that a command is to read: the given one, or the base that a folder records.

    Args:
        given: What the command line names instead, if anything.
        recorded: The base's name as it was given when it was recorded.
        folder: Run folder or model folder that records it.
        option: What names another place for it on the command line.

    Raises:
        FileNotFoundError: It is not there, or a weight file is missing.
        ValueError: The family is not supported, or a weight file is damaged.
    """
    name = given or str(recorded_folder(recorded, folder) or recorded)
    try:
        find_architecture(name)
    except OSError as error:
        if given is not None or Path(name).is_dir():
            raise
        raise FileNotFoundError(
            f"{folder} records the base {recorded!r}, which is neither a folder (looked for here "
            f"and above {folder}) nor a model on the hub that can be read; say where it lies "
            f"({option})"
        ) from error
    return name


def recorded_folder(recorded: str, folder: Path) -> Path | None:
    """Return the folder that a recorded name stands for, or None where it is none.

    A relative name holds where the command ran that recorded it: here, or else, most often, in a
    folder above the one that it wrote.
    """
    place = folder.resolve()
    tried = (Path(recorded), *(above / recorded for above in (place, *place.parents)))
    return next((path for path in tried if path.is_dir()), None)


def check_recorded(
    model: PreTrainedModel, fingerprint: str, dtype: torch.dtype, folder: Path, option: str
) -> None:
    """Refuse another model than the base that a folder records.

    Args:
        model: What was loaded by the recorded name.
        fingerprint: Of the base.
        dtype: Of the model in `folder`: its base may have been read in it.
        folder: Model folder that records the fingerprint.
        option: What names a model that is not checked.

    Raises:
        ValueError: The weights differ.
    """
    rows = list(first_rows(model))
    found = (BaseIdentity.of_rows(model, (row.to(x) for row in rows)) for x in (model.dtype, dtype))
    if all(identity.fingerprint != fingerprint for identity in found):
        raise ValueError(
            f"the weights of {model.config.name_or_path} are not those of the base that {folder} "
            f"was made from; put that base back, or name the model to follow ({option})"
        )
