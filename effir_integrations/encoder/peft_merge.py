"""Merge a LoRA adapter into the weights of its base, and check that nothing else changes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoTokenizer

from ..extras import import_extra
from ..model.hooks import TOKENS, token_ids
from ..model.peft_folder import CONFIG, Adapter
from ..model.safetensors_files import belongs, is_left_out
from .tokenization import ends_with_eos, prepare_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from .encoder import Encoder

_INSIDE = "base_model.model."
"""What peft puts in front of the names of the model that an adapter was trained on."""
_ROUNDING = {torch.float32: 1e-4}
_HALF_ROUNDING = 0.1
"""Difference of two states, relative to their length, that another order of sums explains; in half
precision the merged weights are rounded as well, in every layer."""


def with_adapter(encoder: Encoder, adapter: Adapter) -> Encoder:
    """Merge an adapter into the encoder of its base, whose modules and prompts stay.

    Its own tokenizer, if it has one, ends texts as that of the base does.

    Raises:
        FileNotFoundError: As of `merge`.
        ImportError: As of `merge`.
        ValueError: As of `merge`.
        RuntimeError: As of `merge`.
    """
    module: Any = encoder[0]
    module.model = merge(module.model, adapter)
    if adapter.file("tokenizer_config.json") is not None:
        limit, stock = encoder.max_seq_length, encoder.tokenizer
        own = AutoTokenizer.from_pretrained(adapter.name, **adapter.place)
        prepare_tokenizer(own, append_eos=ends_with_eos(stock))
        module.processor = own
        if limit is not None:
            encoder.max_seq_length = min(limit, own.model_max_length)
    # what the card of the base says is not true of this one
    encoder._model_card_text, encoder.model_card_data.base_model = None, None
    return encoder


def merge(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """Add an adapter to the weights of its base, in fp32, and return the model, which is the base.

    Adapters that were trained on a model with a head are told by their names; their parts on the
    head go, as heads do.

    Args:
        model: The base, whole; it is changed.
        adapter: Made for it.

    Raises:
        FileNotFoundError: The adapter has no safetensors weights.
        ImportError: peft is not installed.
        ValueError: The adapter is not of this base, or cannot be merged, or the base is quantised.
        RuntimeError: The merged model computes something else than base and adapter.
    """
    check_not_quantised(model.config, {}, adapter)
    from safetensors.torch import load_file

    from ..model.weights import check_finite

    tensors = load_file(adapter.weights())
    check_finite(tensors, adapter.name)
    names = set(model.state_dict())
    carrying = _put_on(model, tensors, adapter)
    expected = _states(model)
    _add_to_weights(model)
    carrying.unload()
    if set(model.state_dict()) != names:
        raise ValueError(f"{adapter.name} changes more than weights, and cannot be merged")
    _check_states(expected, _states(model), model.dtype, adapter)
    model.requires_grad_(True)
    model.name_or_path = model.config.name_or_path = adapter.name
    return model


def check_not_quantised(
    config: PretrainedConfig, options: Mapping[str, Any], adapter: Adapter
) -> None:
    """Refuse to merge into weights of 8 or 4 bits, which would be rounded once more.

    Raises:
        ValueError: The config of the base, or what it is to be loaded with, asks for them.
    """
    if options.get("quantization_config") or getattr(config, "quantization_config", None):
        raise ValueError(
            f"{adapter.name} holds an adapter, and its base {adapter.base} is held in fewer than "
            "16 bits, into which nothing is merged; name the base in full precision in its "
            f"{CONFIG}, or load it without precision=... and save it first"
        )


def _put_on(model: PreTrainedModel, tensors: dict[str, torch.Tensor], adapter: Adapter) -> Any:
    """Return peft's model around the base, or around a place for it under the name it has there."""
    peft, config = import_extra("peft", "train"), adapter.config()
    whole: nn.Module = model
    if any(name.startswith(f"{_INSIDE}{model.base_model_prefix}.") for name in tensors):
        whole = nn.ModuleDict({model.base_model_prefix: model})
    try:
        with warnings.catch_warnings():
            # peft reads an attribute that Transformers calls otherwise by now
            warnings.simplefilter("ignore", FutureWarning)
            carrying = peft.PeftModel(whole, config)
    except ValueError as error:
        raise _misfit(adapter, " ".join(str(error).split())[:200]) from error
    peft.set_peft_model_state_dict(carrying, _own_tensors(carrying, tensors, adapter, model))
    return carrying


def _misfit(adapter: Adapter, reason: str) -> ValueError:
    return ValueError(
        f"the adapter {adapter.name} does not fit its base {adapter.base}: {reason}; name the base "
        f"that it was trained on in {CONFIG}"
    )


def _own_tensors(
    carrying: Any, tensors: dict[str, torch.Tensor], adapter: Adapter, model: PreTrainedModel
) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter without those of a head, after comparing all names."""
    peft = import_extra("peft", "train")
    stored = peft.get_peft_model_state_dict(carrying, save_embedding_layers=False)
    known = {**carrying.state_dict(), **stored}
    missing = sorted(name for name in stored.keys() - tensors.keys() if not is_left_out(name))
    unread = [
        name
        for name in sorted(tensors.keys() - known.keys())
        if belongs(name.removeprefix(_INSIDE), model)
    ]
    own = {name: tensor for name, tensor in tensors.items() if name in known}
    shapes = [name for name in sorted(own) if own[name].shape != known[name].shape]
    for names, what in (
        (missing, "it lacks {}"),
        (unread, "it holds {}, which the base has not"),
        (shapes, "it holds {} in another shape than the base has"),
    ):
        if names:
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            raise _misfit(adapter, what.format(listed))
    return own


@torch.no_grad()
def _add_to_weights(model: PreTrainedModel) -> None:
    """Merge layer after layer, so that only one is held in fp32 beside the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in list(model.modules()):
        if isinstance(module, BaseTunerLayer):
            weights: Any = module.get_base_layer()
            dtype = weights.weight.dtype
            weights.float()
            module.merge(safe_merge=True)
            weights.to(dtype)


@torch.inference_mode()
def _states(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.tensor([token_ids(model, TOKENS)], device=model.device)
    states: torch.Tensor = model.eval()(
        input_ids=ids, attention_mask=torch.ones_like(ids)
    ).last_hidden_state[0]
    return states.float()  # (tokens, hidden)


def _check_states(
    expected: torch.Tensor, found: torch.Tensor, dtype: torch.dtype, adapter: Adapter
) -> None:
    """Compare what base and adapter give with what the merged weights give.

    One product in place of two changes the order of sums, and in half precision the merged weights
    are rounded as well: that much is allowed.
    """
    allowed = _ROUNDING.get(dtype, _HALF_ROUNDING)
    apart = float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())
    if not apart <= allowed:
        raise RuntimeError(
            f"merging {adapter.name} into {adapter.base} changes what it computes (by {apart:.2g} "
            f"of a state's length, {allowed} is rounding); merge it with peft, save that, and "
            "compare its vectors"
        )
