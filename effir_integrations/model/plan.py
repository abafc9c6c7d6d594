"""What stages hand to each other: the importance report and the pruning plan.

Each is a frozen dataclass that saves itself as JSON (and safetensors where it holds tensors), by
rename, so that a file is either whole or absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..fields import blamed_on, check_fields, from_mapping
from ..files import file_sha256, new_file, read_json, write_json
from .identity import BaseIdentity
from .stage_record import check_records
from .surgery import check_layers

IMPORTANCE_FORMAT = "effir-importance/1"
PLAN_FORMAT = "effir-plan/1"
IMPORTANCE_FILE = "importance.json"
PLAN_FILE = "plan.json"
NEURONS_FILE = "neurons.safetensors"
OUTPUTS_FILE = "outputs.safetensors"
_SECOND = "-2"
"""In the names of tensors that take turns with others, so that the old are not written over."""


def versions() -> dict[str, str]:
    """Return the versions of the packages that an artefact's numbers depend on."""
    names = ("effir-integrations", "torch", "transformers", "sentence-transformers")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout that stands on the path as it is
            found[name] = "not installed"
    return found


@dataclass(frozen=True, kw_only=True, repr=False)
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

    def __post_init__(self) -> None:
        check_fields(self)
        for kind in ("attention", "mlp", "block"):
            if len(getattr(self, kind)) != self.base.layers:
                raise ValueError(
                    f"{kind} scores {len(getattr(self, kind))} layers, but the base has "
                    f"{self.base.layers}; give one score a layer"
                )

    def __repr__(self) -> str:
        """Return one line without the scores."""
        name = Path(self.base.name).name
        texts = self.calibration.get("texts", "no")
        return f"ImportanceReport({name}: {self.base.layers} layers, on {texts} texts)"

    def _repr_html_(self) -> str:
        """Return a heat map, one row a layer, as a notebook shows it."""
        from .tables import importance_html

        return importance_html(self)

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
        with blamed_on(path):
            return from_mapping(cls, content)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
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
        check_fields(self)
        check_records(self.made_by)
        self._check_layers()
        for layer, parts in self.outputs.items():
            for part, tensor in parts.items():
                if not bool(tensor.isfinite().all()):
                    raise ValueError(
                        f"the new MLP output {part} of layer {layer} holds NaN or infinite "
                        "numbers; make the plan again"
                    )

    def __repr__(self) -> str:
        """Return one line without tensors."""
        return (
            f"PruningPlan({self.base.name}: {self.parameters:,} of {self.base.parameters:,} "
            f"parameters, MLP widths {list(self.mlp_widths)}, without the attentions of "
            f"{list(self.drop_attention) or 'none'})"
        )

    def _repr_html_(self) -> str:
        """Return what stays of every layer, as a notebook shows it."""
        from .tables import plan_html

        return plan_html(self)

    def _check_layers(self) -> None:
        base = self.base
        mlps = [layer for layer, width in enumerate(base.mlp_widths) if width]
        attentions = [x for x in range(base.layers) if x not in base.dropped_attention]
        check_layers(self.drop_mlp, mlps, base.layers, "MLP")
        check_layers(self.drop_attention, attentions, base.layers, "attention")
        check_layers({*self.neurons, *self.outputs}, mlps, base.layers, "MLP")
        for layer, kept in self.neurons.items():
            width = base.mlp_widths[layer]
            ascending = kept.ndim == 1 and bool((kept.diff() > 0).all())
            if not ascending or not len(kept) or kept[0] < 0 or kept[-1] >= width:
                raise ValueError(
                    f"the kept neurons of layer {layer} are no ascending choice of its {width}; "
                    "make the plan again"
                )
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
        """Write `plan.json`, last, with its tensors beside it, and return its path.

        Tensors of a plan that is there keep their files until the new one counts, so that a kill
        leaves one of the two, whole.
        """
        folder.mkdir(parents=True, exist_ok=True)
        used, hashes = _files_in_use(folder), {}
        for name, tensors in self._tensor_files().items():
            if tensors:
                other = name if name not in used else _second(name)
                with new_file(folder / other) as partial:
                    save_file(tensors, partial)
                hashes[other] = file_sha256(folder / other)
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
        for name in (NEURONS_FILE, OUTPUTS_FILE):
            for other in {name, _second(name)} - hashes.keys():
                (folder / other).unlink(missing_ok=True)
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
    def load(cls, folder: Path, *, tensors: bool = True) -> PruningPlan:
        """Read a plan from its folder and check that its tensor files belong to it.

        Args:
            folder: Of the plan, or the file itself.
            tensors: Read neurons and outputs as well; without them, the plan only drops.

        Raises:
            FileNotFoundError: There is no plan, or a tensor file is missing.
            ValueError: A file is something else, or from another run.
        """
        folder = folder if folder.is_dir() else folder.parent
        path = folder / PLAN_FILE
        content = _read_artifact(path, PLAN_FORMAT, "drop or reconstruct")
        with blamed_on(path):
            stored = from_mapping(_StoredPlan, content)
            found = {
                name.replace(_SECOND, ""): _by_layer(_tensors(folder, name, stored.files))
                for name in stored.files
                if tensors
            }
            plan = stored.plan(found.get(NEURONS_FILE, {}), found.get(OUTPUTS_FILE, {}))
            stated = (stored.mlp_widths, stored.parameters)
            if tensors and (plan.mlp_widths, plan.parameters) != stated:
                raise ValueError(
                    f"mlp_widths or parameters are not what the plan leaves ({plan.mlp_widths}, "
                    f"{plan.parameters:,}); make the plan again"
                )
            return plan


def _second(name: str) -> str:
    return name.replace(".safetensors", f"{_SECOND}.safetensors")


def _files_in_use(folder: Path) -> Mapping[str, str]:
    """Return the tensor files of the plan that is there, if one can be read."""
    try:
        return read_json(folder / PLAN_FILE, PLAN_FORMAT).get("files") or {}
    except (FileNotFoundError, ValueError):
        return {}


@dataclass(frozen=True, kw_only=True)
class _StoredPlan:
    """What `plan.json` holds beside its format."""

    base: BaseIdentity
    drop_mlp: tuple[int, ...]
    drop_attention: tuple[int, ...]
    mlp_widths: tuple[int, ...]
    parameters: int
    made_by: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, str]
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        check_fields(self)

    def plan(self, neurons: dict[int, Any], outputs: dict[int, Any]) -> PruningPlan:
        return PruningPlan(
            base=self.base,
            drop_mlp=self.drop_mlp,
            drop_attention=self.drop_attention,
            neurons={layer: parts[""].long() for layer, parts in neurons.items()},
            outputs=outputs,
            made_by=self.made_by,
            versions=self.versions,
        )


def _by_layer(tensors: Mapping[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    """Sort tensors called `layers.LAYER` or `layers.LAYER.PART`."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"layers\.(\d+)\.?(|weight|bias)", name)
        if match is None:
            raise ValueError(f"{name!r} names no tensor of a plan; make the plan again")
        found.setdefault(int(match[1]), {})[match[2]] = tensor
    return dict(sorted(found.items()))


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
