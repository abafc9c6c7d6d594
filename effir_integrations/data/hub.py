"""Open a `datasets` source by its name, as a stream of rows."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SPELLING = re.compile(
    r"(?P<name>[^:#]+)(:(?P<config>[^:#]*))?(:(?P<split>[^:#]+))?(#(?P<column>[^#]+))?"
)
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""OWNER/NAME, in full."""
_FILE_SUFFIXES = (".jsonl", ".txt", ".md", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zip")


@dataclass(frozen=True, kw_only=True)
class DatasetName:
    """What `NAME[:CONFIG[:SPLIT]][#COLUMN]` says."""

    name: str
    """OWNER/NAME on the hub, or a folder that `datasets` can load."""
    config: str | None
    """The configuration; None is the only one, or the default."""
    split: str
    """The split, "train" unless named."""
    column: str | None
    """The column, if one was named."""


def parse_dataset_name(source: str | Path) -> DatasetName | None:
    """Return what a source names, or None if it is neither a folder nor spelled as a hub name."""
    name, config, split, column = str(source), None, "train", None
    if not os.path.isdir(os.path.expanduser(name)) and (match := _SPELLING.fullmatch(name)):
        name, config = match["name"], match["config"] or None
        split, column = match["split"] or split, match["column"]
    is_hub_name = (
        isinstance(source, str)
        and HUB_NAME.fullmatch(name)
        and not name.lower().endswith(_FILE_SUFFIXES)
    )
    name = os.path.expanduser(name)
    if not os.path.isdir(name) and not is_hub_name:
        return None
    return DatasetName(name=name, config=config, split=split, column=column)


def stream_rows(source: str, dataset: DatasetName, *, extra: str) -> Iterator[Mapping[str, Any]]:
    """Open a dataset; rows are read as they are asked for.

    Args:
        source: The name as it was given, for errors.
        dataset: What it means.
        extra: The extra of this package that installs `datasets`, for the error.

    Raises:
        ImportError: If the package `datasets` is not installed.
        FileNotFoundError: If there is no data at that name.
        ConnectionError: If the hub would have to be asked and cannot be.
        ValueError: If the configuration or the split does not exist.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"Reading {source!r} needs the package datasets; "
            f'install it with: pip install "effir-integrations[{extra}]"'
        ) from error
    try:
        rows = datasets.load_dataset(
            dataset.name, dataset.config, split=dataset.split, streaming=True
        )
        return iter(rows)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{source}: datasets finds no data there ({_one_line(error)}); check the name."
        ) from error
    except ConnectionError as error:
        raise ConnectionError(
            f"{source}: no such path here, and datasets cannot reach the Hub to look for that "
            f"name ({_one_line(error)}); check the path, or the network."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{source}: datasets refuses config={dataset.config!r}, split={dataset.split!r} "
            f"({_one_line(error)}); spell it owner/name:config:split."
        ) from error


def shown(source: str | Path) -> str:
    """Return a source as an error shows it: a text passed by mistake may be long."""
    text = str(source)
    return repr(text if len(text) <= 80 else text[:80] + "...")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
