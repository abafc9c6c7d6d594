"""The Transformer module of an encoder, whose weights are checked while they are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Transformer

from ..model.safetensors_files import belongs, is_left_out
from .peft_folder import Adapter, blamed_on_base, find_adapter
from .peft_merge import check_not_quantised, merge


class CheckedTransformer(Transformer):
    """Loads as `Transformer` does, refuses weights that are not the model's, merges adapters.

    Afterwards it is a `Transformer`: only loading differs, and folders name the class they hold.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__class__ = Transformer

    def _load_config(
        self, model_name_or_path: str, backend: str, config_kwargs: dict[str, Any]
    ) -> tuple[Any, bool]:
        adapter = _adapter_at(model_name_or_path, backend, config_kwargs)
        if adapter is None:
            return super()._load_config(model_name_or_path, backend, config_kwargs)
        with blamed_on_base(adapter):
            config, _ = self._load_config(*_base_of(adapter, config_kwargs, backend))
        adapter.check_config(config)
        return config, True

    def _load_model(
        self,
        model_name_or_path: str,
        transformer_task: Any,
        config: Any,
        backend: str,
        is_peft_model: bool,
        **kwargs: Any,
    ) -> Any:
        if adapter := _adapter_at(model_name_or_path, backend, kwargs):
            check_not_quantised(config, kwargs, adapter)
            base, _, kwargs = _base_of(adapter, kwargs, backend)
            model = self._load_model(base, transformer_task, config, backend, False, **kwargs)
            return merge(model, adapter)
        given = (model_name_or_path, transformer_task, config, backend, is_peft_model)
        if backend != "torch":
            return super()._load_model(*given, **kwargs)
        # sizes that differ are reported as well, which beats an error without their names
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded: Any = super()._load_model(*given, **kwargs)
        model, report = loaded
        check_report(model, report, model_name_or_path)
        return model


def _adapter_at(name: str, backend: str, kwargs: Mapping[str, Any]) -> Adapter | None:
    if backend != "torch":
        return None
    subfolder = kwargs.get("subfolder") or ""
    return find_adapter(name, revision=kwargs.get("revision"), subfolder=subfolder)


def _base_of(
    adapter: Adapter, kwargs: dict[str, Any], backend: str
) -> tuple[str, str, dict[str, Any]]:
    """Return the arguments of `_load_config` for the base; the others say where the adapter is."""
    from .loading import config_place, find_source

    place = {"revision": adapter.base_revision, "subfolder": ""}
    return str(config_place(find_source(adapter.base))), backend, {**kwargs, **place}


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


def not_finite(bad: list[str], name: str) -> ValueError:
    """Return the refusal of a checkpoint by the weights that make all of it useless."""
    return ValueError(
        f"{name} has weights that are NaN or infinite: {_some(bad)}; copy or download the "
        "checkpoint again, or load the one before training diverged"
    )


def _is_finite(tensor: torch.Tensor) -> bool:
    # packed weights of a quantised model are of classes of their own, or integers
    if type(tensor) is not torch.Tensor or not tensor.is_floating_point() or tensor.is_meta:
        return True
    # a sum is one pass without a copy; one that overflows says nothing yet
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())
