"""Which base a report or plan was made for, told from the weights themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..fields import check_fields
from .families import Architecture, find
from .offload import parameter_of
from .surgery import dropped_attention, mlp_widths, model_layers, parameter_count, projection_shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class BaseIdentity:
    """Which model a report or plan was made for, and the sizes that planning needs."""

    name: str
    """Folder or hub name as it was given."""
    revision: str | None
    """Commit on the hub, where it is known."""
    family: str
    """Row of the architecture table."""
    hidden_size: int
    """Width of the residual stream."""
    mlp_widths: tuple[int, ...]
    """MLP neurons of every layer, 0 where the base has none."""
    dropped_attention: tuple[int, ...]
    """Layers of the base that have no attention."""
    parameters: int
    """Parameters of the base without LM head."""
    attention_parameters: tuple[int, ...]
    """Parameters that go with the attention sublayer of every layer."""
    mlp_parameters: tuple[int, ...]
    """Parameters that go with the MLP sublayer of every layer."""
    neuron_parameters: int
    """Parameters that go with one MLP neuron."""
    output_bias: bool
    """Whether MLP output projections have a bias."""
    fingerprint: str
    """SHA-256 over one row of every output projection, rounded to bf16."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("attention_parameters", "mlp_parameters"):
            if len(getattr(self, name)) != self.layers:
                raise ValueError(
                    f"{name} names {len(getattr(self, name))} layers and mlp_widths {self.layers}; "
                    "give one number a layer"
                )

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.mlp_widths)

    @classmethod
    def of(cls, model: PreTrainedModel, name: str | None = None) -> BaseIdentity:
        """Describe a base model, in memory or with layers on disk."""
        return cls.of_rows(model, first_rows(model), name)

    @classmethod
    def of_rows(
        cls, model: PreTrainedModel, rows: Iterable[torch.Tensor], name: str | None = None
    ) -> BaseIdentity:
        """Describe a model whose weights lie elsewhere; it may be on the meta device.

        Args:
            model: Only its shape and config are read.
            rows: The first row of each of `output_weights(model)`, in that order.
            name: Folder or hub name; None takes the one that it was loaded by.
        """
        return cls(
            name=name or str(model.config.name_or_path),
            revision=getattr(model.config, "_commit_hash", None),
            **_sizes(model, find(model.config)),
            fingerprint=_fingerprint(rows),
        )

    def check_same(self, other: BaseIdentity) -> None:
        """Refuse another base than the one this was made for.

        Raises:
            ValueError: Family, sizes or weights differ.
        """
        for name in ("family", "hidden_size", "mlp_widths", "dropped_attention", "fingerprint"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                what = "weights" if name == "fingerprint" else name
                detail = "" if name == "fingerprint" else f" ({ours} against {theirs})"
                raise ValueError(
                    f"made for {self.name}, but the {what} of {other.name} differ{detail}; use the "
                    "model it was made for, or make it again for this one"
                )


def _sizes(model: PreTrainedModel, architecture: Architecture) -> dict[str, Any]:
    layers = model_layers(model, architecture)
    widths = mlp_widths(model, architecture)
    gone = dropped_attention(model, architecture)
    first = next((layers[x] for x, width in enumerate(widths) if width), None)
    return {
        "family": architecture.family,
        "hidden_size": model.config.hidden_size,
        "mlp_widths": tuple(widths),
        "dropped_attention": tuple(gone),
        "parameters": parameter_count(model),
        "attention_parameters": tuple(
            _parameters_at(x, architecture.without_attention) for x in layers
        ),
        "mlp_parameters": tuple(_parameters_at(x, architecture.without_mlp) for x in layers),
        "neuron_parameters": _neuron_parameters(first, architecture) if first is not None else 0,
        "output_bias": first is not None
        and first.get_submodule(architecture.mlp_output).bias is not None,
    }


def _parameters_at(layer: Any, paths: Mapping[str, str]) -> int:
    return sum(parameter_count(layer.get_submodule(path)) for path in paths)


def _neuron_parameters(layer: Any, architecture: Architecture) -> int:
    total = projection_shape(layer.get_submodule(architecture.mlp_output))[1]
    for path in architecture.mlp_inputs:
        module = layer.get_submodule(path)
        per_row = projection_shape(module)[0] + (module.bias is not None)
        total += architecture.fused_inputs * per_row
    return total


def output_weights(model: PreTrainedModel) -> list[str]:
    """Return the names of the weights of all output projections, which make the fingerprint."""
    architecture = find(model.config)
    gone = dropped_attention(model, architecture)
    names = []
    for layer, width in enumerate(mlp_widths(model, architecture)):
        paths = [architecture.attention_output] if layer not in gone else []
        paths += [architecture.mlp_output] if width else []
        names += [f"{architecture.layers}.{layer}.{path}.weight" for path in paths]
    return names


def first_rows(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    """Yield the first row of each of `output_weights`, from disk where layers were left there."""
    for name in output_weights(model):
        module, _, leaf = name.rpartition(".")
        yield parameter_of(model.get_submodule(module), leaf)[0]


def _fingerprint(rows: Iterable[torch.Tensor]) -> str:
    # bf16, so that a base loaded in fp32 and in bf16 is the same base
    digest = hashlib.sha256()
    for row in rows:
        rounded = row.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(rounded.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
