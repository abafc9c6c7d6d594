"""The Transformer module of an encoder, whose weights are checked while they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentence_transformers.sentence_transformer.modules import Transformer

from ..model.apply import check_config_code
from ..model.peft_folder import Adapter, blamed_on_base, find_adapter
from ..model.weights import check_report
from .peft_merge import check_not_quantised, merge
from .sources import config_place, find_source


class CheckedTransformer(Transformer):
    """Loads as `Transformer` does, refuses weights that are not the model's, merges adapters.

    It refuses a config that names modelling code which it is not to run as well.

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
            config, is_peft = super()._load_config(model_name_or_path, backend, config_kwargs)
            if not config_kwargs.get("trust_remote_code"):
                check_config_code(config)
            return config, is_peft
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
    place = {"revision": adapter.base_revision, "subfolder": ""}
    return str(config_place(find_source(adapter.base))), backend, {**kwargs, **place}
