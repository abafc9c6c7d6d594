"""Have an encoder for oneself while it is measured, in a precision that the machine is quick in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..encoder.call_lock import call_lock
from ..encoder.precision import has_bf16
from ..model.surgery import restore_dtypes, widen

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@contextmanager
def measuring(encoder: SentenceTransformer) -> Iterator[None]:
    """Let nobody else run an encoder, and hold its weights in fp32 where bf16 would be slow.

    A CPU without instructions for bf16 takes several times as long in it. Going to fp32 and back
    changes no weight; memory for the weights doubles meanwhile. Layers on disk stay as they are.
    """
    with call_lock(encoder):
        dtypes = widen(encoder) if _is_slow(encoder) else {}
        try:
            yield
        finally:
            if dtypes:
                restore_dtypes(encoder, dtypes)


def _is_slow(encoder: SentenceTransformer) -> bool:
    parameters = list(encoder.parameters())
    if any(parameter.device.type != "cpu" for parameter in parameters) or has_bf16("cpu"):
        return False
    return any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in parameters)
