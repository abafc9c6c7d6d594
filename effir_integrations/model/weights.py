"""Refuse weights that are not those of the model: missing, of another shape, not finite."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from .safetensors_files import belongs, is_left_out


def check_report(model: Any, report: Mapping[str, Collection[Any]], name: str) -> None:
    """Refuse a model that was loaded with random weights, or without some of its own.

    Args:
        model: As loaded.
        report: What `from_pretrained` says about it: missing, unexpected and mismatched keys.
        name: Folder or name on the hub, for the message.

    Raises:
        ValueError: Weights are missing, have another shape, or are not read although they belong to
            the model; where it has no head, heads, poolers and what old versions computed may be
            there or not.
    """
    kind, has_head = type(model).__name__, model.base_model is not model
    missing = sorted(key for key in report["missing_keys"] if has_head or not is_left_out(key))
    unread = sorted(report["unexpected_keys"])
    if missing:
        others = f" (it holds {_some(unread)}, which that class has not)" if unread else ""
        raise ValueError(
            f"{name} lacks {len(missing)} weights of {kind}: {_some(missing)}{others}; they would "
            "be random, so copy or download the checkpoint again, or give its tensors these names"
        )
    for key, found, expected in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"{key} of {name} has shape {tuple(found)}, but config.json asks for "
            f"{tuple(expected)}; put the config and the weights of one model together"
        )
    if own := [key for key in unread if belongs(key, model)]:
        raise ValueError(
            f"{name} holds {len(own)} weights that its config leaves out of {kind}: "
            f"{_some(own)}; put the config and the weights of one model together"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_finite(tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuse weights that are NaN or infinite, from which every vector would be.

    Raises:
        ValueError: Some are.
    """
    bad = [key for key, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        raise not_finite(bad, name)


def _is_finite(tensor: torch.Tensor) -> bool:
    # packed weights of a quantised model are of classes of their own, or integers
    if type(tensor) is not torch.Tensor or not tensor.is_floating_point() or tensor.is_meta:
        return True
    # a sum is one pass without a copy; one that overflows says nothing yet
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def not_finite(bad: list[str], name: str) -> ValueError:
    """Return the refusal of a checkpoint by the weights that make all of it useless."""
    return ValueError(
        f"{name} has weights that are NaN or infinite: {_some(bad)}; copy or download the "
        "checkpoint again, or load the one before training diverged"
    )
