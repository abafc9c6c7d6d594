"""What one actor of a cluster does: hold the model, and make a shard of every part it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..extras import import_extra
from .partitions import Part, read_part
from .shards import write_shard

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

    from .on_ray import ClusterConfig

_FAILURES = (ValueError, OSError, ImportError)
"""What is reported in plain words: bad input, a full disk, a model that is not there."""


class PartEncoder:
    """One actor: holds the model, and makes a shard of each part that it is given."""

    def __init__(self, name: str, config: ClusterConfig, folder: str) -> None:
        import torch

        torch.set_num_threads(config.cpus_per_actor)
        self._config = config
        self._folder = folder
        # what is raised reaches the driver wrapped in Ray's own; what is returned does not
        self._unusable: Exception | None = None
        try:
            self._load(name)
        except _FAILURES as error:
            self._unusable = error

    def _load(self, name: str) -> None:
        from ..encoder.encoder import role_prompt
        from ..encoder.loading import load

        config = self._config
        self._encoder = load(
            name,
            precision=config.precision,
            max_length=config.max_length,
            revision=config.revision,
        )
        self._prompt = config.prompt
        if self._prompt is None:
            self._prompt = role_prompt(self._encoder, config.role)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Write the shards of a table of parts, and return what failed of each."""
        failures = [self._encode(Part(**row)) for row in batch.to_pylist()]
        columns = {
            "bad_input": [isinstance(error, ValueError) for error in failures],
            "failure": [_said(error) for error in failures],
        }
        return import_extra("pyarrow", "ray").table(columns)

    def _encode(self, part: Part) -> Exception | None:
        if self._unusable is not None:
            return self._unusable
        try:
            ids, texts = read_part(part)
            write_shard(self._folder, part.number, ids, self._windows(ids, texts))
        except _FAILURES as error:
            return error
        return None

    def _windows(self, ids: list[str], texts: list[str]) -> Iterator[np.ndarray]:
        window = self._config.window
        for start in range(0, len(texts), window):
            vectors = self._encoder.encode(
                texts[start : start + window],
                prompt=self._prompt,
                normalize_embeddings=self._config.normalize_embeddings,
                truncate_dim=self._config.truncate_dim,
            )
            sums = vectors.sum(axis=1)
            if not (finite := abs(sums) < float("inf")).all():
                raise ValueError(
                    f"the vector of {ids[start + int(finite.argmin())]!r} is not finite; choose "
                    "another precision, or look at the model"
                )
            yield vectors


def _said(error: Exception | None) -> str:
    if error is None or isinstance(error, ValueError):
        return str(error or "")
    return f"{type(error).__name__}: {error}"
