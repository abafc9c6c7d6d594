"""Write examples to an Arrow file on disk through `datasets`, and hash what was written."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_integrations.extras import import_extra

if TYPE_CHECKING:
    import datasets


def write_dataset(
    examples: Callable[..., Iterator[Mapping[str, Any]]],
    arguments: Mapping[str, Any],
    features: datasets.Features,
    *,
    cache_dir: str | Path | None,
    reusable: bool,
) -> datasets.Dataset:
    """Return what a generator yields as a memory-mapped data set.

    Args:
        examples: Called with `arguments`; what it raises reaches the caller as it is.
        arguments: All that the examples depend on: an earlier result in `cache_dir` is found again
            by these and by nothing else. None may be a list, which would be taken for shards.
        features: The columns, in order.
        cache_dir: Where the file goes; None makes a temporary folder, removed at exit.
        reusable: Whether equal arguments mean equal examples; otherwise the file goes into a
            temporary folder inside `cache_dir`.

    Raises:
        ImportError: If the package `datasets` is not installed.
    """
    datasets = import_extra("datasets", "train")
    folder = Path(os.path.expanduser(cache_dir)) if cache_dir is not None else None
    if folder is None or not reusable:
        folder = _temporary_folder(folder)
    try:
        with _no_progress_bars(datasets):
            return datasets.Dataset.from_generator(
                examples, features=features, cache_dir=str(folder), gen_kwargs=dict(arguments)
            )
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, OSError, ImportError, RuntimeError)):
            raise cause from None
        raise


def content_sha256(dataset: datasets.Dataset) -> str:
    """Hash every value after its length, so that the boundaries between texts count."""
    digest = hashlib.sha256(json.dumps(dataset.column_names).encode())
    for batch in dataset.iter(batch_size=1000):
        columns: Sequence[Sequence[Any]] = list(batch.values())
        for values in zip(*columns, strict=True):
            for value in values:
                encoded = (value if isinstance(value, str) else json.dumps(value)).encode()
                digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _temporary_folder(parent: Path | None) -> Path:
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="effir-training-", dir=parent))
    # Not with the data set: a selection made of it, or a worker, still reads the file.
    atexit.register(_remove_folder, folder, os.getpid())
    return folder


def _remove_folder(folder: Path, process: int) -> None:
    # A forked worker must not remove what its parent reads.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _no_progress_bars(datasets: Any) -> Iterator[None]:
    shown_before = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown_before:
            datasets.enable_progress_bars()
