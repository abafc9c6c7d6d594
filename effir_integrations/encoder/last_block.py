"""In the last block, compute the MLP and the output projection for the pooled token alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread
from typing import Any

import torch

from ..model.families import Architecture, find
from ..model.surgery import find_projection, model_layers


class PooledToken:
    """Which token of each text is read, while a batch runs.

    Hooks cut the input of the last block's projections to that token. What they return,
    (batch, 1, hidden), is broadcast when it is added to the residual stream (batch, tokens,
    hidden): right at the pooled token, and meaningless at the others, which nobody reads.
    """

    def __init__(self) -> None:
        self.positions: torch.Tensor | None = None
        """(batch,); None leaves all tokens."""
        self._owner = current_thread()

    def __call__(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Cut the first input to the pooled tokens."""
        # another thread may run the same model by itself; a forked child uses numbers again
        if self.positions is None or current_thread() is not self._owner:
            return None
        hidden = inputs[0]  # (batch, tokens, size)
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, self.positions][:, None], *inputs[1:]


@contextmanager
def pooled_token_only(model: Any) -> Iterator[PooledToken]:
    """Let the last block compute less while the context lasts; set `positions` for each batch."""
    architecture = find(model.config)
    pooled = PooledToken()
    handles = [
        module.register_forward_pre_hook(pooled) for module in _projections(model, architecture)
    ]
    try:
        yield pooled
    finally:
        for handle in handles:
            handle.remove()


def _projections(model: Any, architecture: Architecture) -> Iterator[torch.nn.Module]:
    block = model_layers(model, architecture)[-1]
    for path in (architecture.attention_output, *architecture.mlp_inputs):
        module = find_projection(block, path)
        if module is not None:
            yield module
