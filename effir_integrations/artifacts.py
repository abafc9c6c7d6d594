"""What stages hand to each other: the base's identity, the importance report, the pruning plan.

Each is a frozen dataclass that saves itself as JSON (and safetensors where it holds tensors), by
rename, so that a file is either whole or absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from .architectures import Architecture, find
from .files import file_sha256, new_file, read_json, write_json
from .surgery import (
    dropped_attention,
    mlp_widths,
    model_layers,
    parameter_count,
    projection_shape,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMPORTANCE_FORMAT = "effir-importance/1"
PLAN_FORMAT = "effir-plan/1"
IMPORTANCE_FILE = "importance.json"
PLAN_FILE = "plan.json"
NEURONS_FILE = "neurons.safetensors"
OUTPUTS_FILE = "outputs.safetensors"


def versions() -> dict[str, str]:
    """Return the versions of the packages that an artefact's numbers depend on."""
    names = ("effir-integrations", "torch", "transformers", "sentence-transformers")
    return {name: version(name) for name in names}


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

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.mlp_widths)

    @classmethod
    def of(cls, model: PreTrainedModel, name: str | None = None) -> BaseIdentity:
        """Describe a base model, on any device but meta."""
        rows = (model.get_parameter(weight)[0] for weight in output_weights(model))
        return cls.of_rows(model, rows, name)

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

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BaseIdentity:
        """Rebuild from what `asdict` and JSON made of it."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
        }
        return cls(**values)


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


def _fingerprint(rows: Iterable[torch.Tensor]) -> str:
    # bf16, so that a base loaded in fp32 and in bf16 is the same base
    digest = hashlib.sha256()
    for row in rows:
        rounded = row.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(rounded.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ImportanceReport:
    """How much every sublayer turns the residual stream: 1 - cosine, mean over tokens (eq. 3)."""

    base: BaseIdentity
    """The model that was measured."""
    calibration: Mapping[str, Any]
    """source, sha256, texts, tokens, max_length."""
    attention: tuple[float | None, ...]
    """Of every layer; None where the base has no attention."""
    mlp: tuple[float | None, ...]
    """Of every layer; None where the base has no MLP."""
    block: tuple[float, ...]
    """Block input against block output, of every layer."""
    versions: Mapping[str, str] = field(default_factory=versions)
    """Packages that were used."""

    def order(self, kind: str) -> list[int]:
        """Return the layers that have this sublayer, least important first; ties by layer."""
        scores = {"attention": self.attention, "mlp": self.mlp, "block": self.block}[kind]
        present = [(score, layer) for layer, score in enumerate(scores) if score is not None]
        return [layer for _, layer in sorted(present)]

    def to_json(self) -> dict[str, Any]:
        """Return what `importance.json` holds."""
        return {"format": IMPORTANCE_FORMAT, **asdict(self)}

    def save(self, folder: Path) -> Path:
        """Write `importance.json` into a run folder and return its path."""
        path = folder / IMPORTANCE_FILE
        write_json(path, self.to_json())
        return path

    @classmethod
    def load(cls, folder: Path) -> ImportanceReport:
        """Read a report from a run folder or from the file itself.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is something else.
        """
        path = folder / IMPORTANCE_FILE if folder.is_dir() else folder
        content = _read_artifact(path, IMPORTANCE_FORMAT, "analyze")
        content["base"] = BaseIdentity.from_json(content["base"])
        for kind in ("attention", "mlp", "block"):
            content[kind] = tuple(content[kind])
        return cls(**content)


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningPlan:
    """What goes from a base, and the output projections that make up for it."""

    base: BaseIdentity
    """The only model this plan applies to."""
    drop_mlp: tuple[int, ...] = ()
    """Layers that lose their MLP."""
    drop_attention: tuple[int, ...] = ()
    """Layers that lose their attention."""
    neurons: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """layer -> indices of the kept neurons (int64, ascending), for narrowed layers only."""
    outputs: Mapping[int, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    """layer -> {weight, bias} (fp32) of the new MLP output projection, as its module keeps them."""
    made_by: tuple[Mapping[str, Any], ...] = ()
    """One entry a stage: its name, config, calibration, measured errors."""
    versions: Mapping[str, str] = field(default_factory=versions)
    """Packages that were used."""

    def __post_init__(self) -> None:
        both = set(self.drop_mlp) & (set(self.neurons) | set(self.outputs))
        if both:
            raise ValueError(f"layers {sorted(both)} are dropped and narrowed at once; choose one")

    @property
    def mlp_widths(self) -> tuple[int, ...]:
        """MLP neurons of every layer once the plan is applied, 0 where the MLP is gone."""
        return tuple(
            0 if layer in self.drop_mlp else len(self.neurons.get(layer, range(width)))
            for layer, width in enumerate(self.base.mlp_widths)
        )

    @property
    def adds_output_bias(self) -> bool:
        """Whether MLPs of a family without output bias get one."""
        has_bias = any("bias" in parts for parts in self.outputs.values())
        return has_bias and not self.base.output_bias

    @property
    def parameters(self) -> int:
        """Parameters that are left, without LM head."""
        base = self.base
        gone = sum(base.mlp_parameters[layer] for layer in self.drop_mlp)
        gone += sum(base.attention_parameters[layer] for layer in self.drop_attention)
        for layer, kept in self.neurons.items():
            gone += (base.mlp_widths[layer] - len(kept)) * base.neuron_parameters
        kept_mlps = sum(width > 0 for width in self.mlp_widths)
        return base.parameters - gone + self.adds_output_bias * kept_mlps * base.hidden_size

    def save(self, folder: Path) -> Path:
        """Write `plan.json`, last, with its tensors beside it, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        hashes = {}
        for name, tensors in self._tensor_files().items():
            if tensors:
                with new_file(folder / name) as partial:
                    save_file(tensors, partial)
                hashes[name] = file_sha256(folder / name)
        content = {
            "format": PLAN_FORMAT,
            "base": asdict(self.base),
            "drop_mlp": self.drop_mlp,
            "drop_attention": self.drop_attention,
            "mlp_widths": self.mlp_widths,
            "parameters": self.parameters,
            "made_by": self.made_by,
            "versions": self.versions,
            "files": hashes,
        }
        write_json(folder / PLAN_FILE, content)
        return folder / PLAN_FILE

    def _tensor_files(self) -> dict[str, dict[str, torch.Tensor]]:
        return {
            NEURONS_FILE: {
                f"layers.{x}": kept.to(torch.int32).contiguous() for x, kept in self.neurons.items()
            },
            OUTPUTS_FILE: {
                f"layers.{x}.{part}": tensor.float().contiguous()
                for x, parts in self.outputs.items()
                for part, tensor in parts.items()
            },
        }

    @classmethod
    def load(cls, folder: Path) -> PruningPlan:
        """Read a plan from its folder and check that its tensor files belong to it.

        Raises:
            FileNotFoundError: There is no plan, or a tensor file is missing.
            ValueError: A file is something else, or from another run.
        """
        folder = folder if folder.is_dir() else folder.parent
        content = _read_artifact(folder / PLAN_FILE, PLAN_FORMAT, "drop or reconstruct")
        tensors = {name: _tensors(folder, name, content["files"]) for name in content["files"]}
        neurons = {
            int(key.split(".")[1]): value.long()
            for key, value in tensors.get(NEURONS_FILE, {}).items()
        }
        outputs: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.get(OUTPUTS_FILE, {}).items():
            _, layer, part = key.split(".")
            outputs.setdefault(int(layer), {})[part] = value
        return cls(
            base=BaseIdentity.from_json(content["base"]),
            drop_mlp=tuple(content["drop_mlp"]),
            drop_attention=tuple(content["drop_attention"]),
            neurons=dict(sorted(neurons.items())),
            outputs=dict(sorted(outputs.items())),
            made_by=tuple(content["made_by"]),
            versions=content["versions"],
        )


def _tensors(folder: Path, name: str, hashes: Mapping[str, str]) -> dict[str, torch.Tensor]:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing but {PLAN_FILE} needs it; make the plan again")
    if file_sha256(path) != hashes[name]:
        raise ValueError(f"{path} is not the one that {PLAN_FILE} was saved with; make it again")
    return load_file(path)


def _read_artifact(path: Path, expected: str, stage: str) -> dict[str, Any]:
    content = read_json(path, f"the {expected} that `effir {stage}` writes")
    found = content.pop("format", None)
    if found != expected:
        raise ValueError(
            f"{path} has format {found!r}, not {expected!r}; make it again with `effir {stage}`"
        )
    return content
