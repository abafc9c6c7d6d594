"""Hidden states of many batches in front of one layer, in memory or in a file."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from .hooks import LayerOutput


class Streams:
    """What the layer before the present one returned, for every batch of some texts.

    Beyond `memory` the states lie in a temporary file without a name, which goes with the process
    however it ends.
    """

    def __init__(self, shapes: Sequence[torch.Size], memory: int) -> None:
        """Start in front of the first layer; room is made when the first states come.

        Args:
            shapes: (batch, tokens) of every batch.
            memory: In bytes; states that take more go to a file.
        """
        self._shapes = shapes
        self._memory = memory
        self._ends = np.cumsum([shape.numel() for shape in shapes]).tolist()
        self._states: torch.Tensor | None = None
        self._latest: list[LayerOutput | None] = [None] * len(shapes)

    def __getitem__(self, batch: int) -> LayerOutput | None:
        """Return what was set last for a batch; None in front of the first layer."""
        latest = self._latest[batch]
        return latest and replace(latest, hidden=self._part(batch).to(latest.hidden.device))

    def __setitem__(self, batch: int, output: LayerOutput) -> None:
        """Put what a layer returned in the place of what the one before it did.

        Raises:
            OSError: The disk has no room for the file.
        """
        if self._states is None:
            self._states = self._room(output.hidden)
        self._part(batch).copy_(output.hidden)
        # its values lie in the part; device and kind are what is kept
        self._latest[batch] = replace(output, hidden=output.hidden.new_empty(0))

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self._ends[-1], like.shape[-1])
        needed = math.prod(shape) * like.element_size()
        if needed <= self._memory:
            return torch.empty(shape, dtype=like.dtype)
        return _mapped(needed).view(like.dtype).view(shape)

    def _part(self, batch: int) -> torch.Tensor:
        assert self._states is not None
        start = self._ends[batch - 1] if batch else 0
        return self._states[start : self._ends[batch]].view(*self._shapes[batch], -1)


def _mapped(size: int) -> torch.Tensor:
    """Return bytes of a new file, (size,), uint8."""
    with tempfile.TemporaryFile(prefix="effir-") as file:
        try:
            # a map of a file with holes kills the process where the disk is full
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{tempfile.gettempdir()} has no room for {size / 1e9:.1f} GB of hidden states; "
                "set TMPDIR to another disk, give fewer texts, or let more of them stay in memory "
                "(memory, --memory)",
            ) from error
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,)))
