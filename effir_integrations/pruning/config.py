"""The settings of the pruning stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..fields import check_fields
from ..training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class DropConfig:
    """How many sublayers go, or which; at most one of the two parameter targets."""

    mlp: int = 0
    """MLPs with the lowest importance (Drop-kM; the paper drops 16 of 32)."""
    attention: int = 0
    """Attentions with the lowest importance (Drop-kA)."""
    block: int = 0
    """Whole blocks with the lowest importance (Drop-kB)."""
    last_blocks: int = 0
    """Whole blocks from the end, without scores (Drop-LastkB)."""
    mlp_layers: tuple[int, ...] = ()
    """MLPs to drop by layer, whatever their importance."""
    attention_layers: tuple[int, ...] = ()
    """Attentions to drop by layer, whatever their importance."""
    keep_parameters: float | None = None
    """Share of the parameters that may stay, in (0, 1): MLPs go until it fits."""
    parameters: int | None = None
    """Number of parameters that may stay, without LM head: MLPs go until it fits."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("mlp", "attention", "block", "last_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more sublayers")
        if self.keep_parameters is not None and not 0 < self.keep_parameters < 1:
            raise ValueError(
                f"keep_parameters={self.keep_parameters} must lie between 0 and 1, ends excluded; "
                "0.5 keeps half of the parameters"
            )
        if self.parameters is not None and self.parameters <= 0:
            raise ValueError(f"parameters={self.parameters} must be positive")
        if self.keep_parameters is not None and self.parameters is not None:
            raise ValueError("keep_parameters and parameters are both given; choose one target")

    @property
    def needs_scores(self) -> bool:
        """Whether an importance report is needed."""
        targets = (self.keep_parameters, self.parameters)
        return bool(self.mlp or self.attention or self.block) or targets != (None, None)


METHODS = ("reconstruct", "mean", "plain")


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """How many MLP neurons stay, and what makes up for the others."""

    keep_neurons: float | None
    """Share of the neurons in the MLPs that are left which stays, in (0, 1]; 1 only refits the MLPs
    left, to make up for dropped sublayers; None keeps the neurons that the plan names (from `slim`)
    and refits those."""
    method: str = "reconstruct"
    """`reconstruct` refits the output projection; `mean` adds the mean output of the removed
    neurons to its bias; `plain` only removes."""
    multiple_of: int = 64
    """Narrowed widths are multiples of this; 1 as in the paper."""
    min_width: int = 1
    """No layer goes below it."""
    ridge: float = 1e-3
    """Pull of the refit towards the present weights, as a share of the mean squared activation."""
    correction: float = 0.5
    """Share of the error of earlier layers that a refit has to make good, in [0, 1]."""
    max_length: int | None = None
    """Tokens of a calibration text; None is the model's own limit."""
    batch_tokens: int = 8192
    """Padded tokens a forward pass."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.keep_neurons is None and self.method != "reconstruct":
            raise ValueError(
                f"method={self.method!r} chooses the neurons itself; say how many with keep_neurons"
            )
        if self.keep_neurons is not None and not 0 < self.keep_neurons <= 1:
            raise ValueError(
                f"keep_neurons={self.keep_neurons} must lie above 0 and be at most 1; 0.5 keeps "
                "half of the neurons"
            )
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is not known; choose {', '.join(METHODS)}")
        for name in ("multiple_of", "min_width", "batch_tokens", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.keep_neurons == 1 and self.method != "reconstruct":
            raise ValueError(
                f"keep_neurons=1 removes no neuron, so method={self.method!r} has nothing to do; "
                "keep fewer neurons, or refit the MLPs left (method='reconstruct')"
            )
        if not 0 < self.ridge <= 1:
            raise ValueError(f"ridge={self.ridge} must lie above 0 and be at most 1")
        if not 0 <= self.correction <= 1:
            raise ValueError(f"correction={self.correction} must lie from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """What `compress` removes, and how; with nothing named, half of the MLP neurons go."""

    drop_mlp: int = 0
    """MLP sublayers to drop, least important first (eq. 4)."""
    drop_attention: int = 0
    """Attention sublayers to drop, least important first (eq. 5)."""
    drop_block: int = 0
    """Whole blocks to drop, least important first."""
    last_blocks: int = 0
    """Whole blocks to drop from the end."""
    keep_parameters: float | None = None
    """Share of the parameters to come down to by dropping MLPs, in (0, 1)."""
    keep_neurons: float | None = None
    """Share of the neurons in the MLPs left that stays, in (0, 1]; 1 only refits the MLPs left to
    make up for dropped sublayers, None leaves them as they are."""
    method: str = "reconstruct"
    """What makes up for removed neurons: reconstruct, mean or plain."""
    multiple_of: int = 64
    """Widths are multiples of this: 64 for quantised kernels, 256 for GGUF, 1 as in the paper."""
    calibration: str | None = None
    """Texts: a file, a BEIR folder, a datasets name; None takes the shipped sample."""
    calibration_texts: int = 256
    """How many of them, drawn with `seed`."""
    max_length: int | None = None
    """Tokens of a calibration text; None is the model's own limit."""
    dtype: str = "auto"
    """Precision of the written model; auto is the checkpoint's own."""
    seed: int = 0
    """Draws the calibration texts."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.drop_config  # noqa: B018 - refuses bad counts and shares
        if self.calibration_texts < 1:
            raise ValueError(f"calibration_texts={self.calibration_texts} must be at least 1")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length={self.max_length} must be at least 1 token")
        if self.keep_neurons == 1 and not self.drops:
            raise ValueError(
                "keep_neurons=1 with no sublayer dropped would change nothing; keep fewer neurons, "
                "or drop sublayers as well"
            )
        if self.keep_neurons is not None:
            self.reconstruct_config  # noqa: B018 - refuses bad shares and methods

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> CompressConfig:
        """Build a config from YAML keys, which are the field names with - or _.

        Raises:
            ValueError: A key is unknown, or a value is of another type.
        """
        renamed = {str(key).replace("-", "_"): value for key, value in values.items()}
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(renamed) - known):
            raise ValueError(
                f"unknown setting {unknown[0]!r}; choose from model, out, "
                f"{', '.join(sorted(known))}"
            )
        return cls(**renamed)

    @property
    def drop_config(self) -> DropConfig:
        """The part that `drop` reads."""
        return DropConfig(
            mlp=self.drop_mlp,
            attention=self.drop_attention,
            block=self.drop_block,
            last_blocks=self.last_blocks,
            keep_parameters=self.keep_parameters,
        )

    @property
    def drops(self) -> bool:
        """Whether any sublayer is to go."""
        return self.drop_config != DropConfig()

    @property
    def reconstruct_config(self) -> ReconstructConfig:
        """The part that `reconstruct` reads."""
        return ReconstructConfig(
            keep_neurons=0.5 if self.keep_neurons is None else self.keep_neurons,
            method=self.method,
            multiple_of=self.multiple_of,
            max_length=self.max_length,
        )


@dataclass(frozen=True, kw_only=True)
class SlimConfig(TrainConfig):
    """How the gates are trained, and how many neurons go by them."""

    after_training = ("sparsity", "multiple_of", "min_width")
    """Trained gates can be cut at any sparsity."""
    sparsity: float = 0.3
    """Share of the neurons in the MLPs left that goes, in (0, 1) (main setting: 0.3)."""
    steps: int | None = 500
    """Optimizer steps (A.1: 500)."""
    learning_rate: float = 1e-5
    """Of the weights, where they train too."""
    gate_learning_rate: float = 1e-2
    """Of the gates; the paper does not state it."""
    beta: float = 5.0
    """Steepness of the surrogate of the gates' number (eq. 8)."""
    gate_weight: float = 1e-8
    """lambda, the weight of that surrogate (eq. 8)."""
    temperature: float = 0.02
    """Of the contrastive loss (A.2)."""
    train_base: bool = False
    """Also train the weights, with `learning_rate`; the paper can be read either way."""
    multiple_of: int = 64
    """Narrowed widths are multiples of this; 1 as in the paper."""
    min_width: int = 1
    """No layer goes below it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise ValueError(
                f"sparsity={self.sparsity} must lie between 0 and 1, ends excluded; 0.3 removes "
                "three neurons of ten"
            )
        for name in ("gate_learning_rate", "beta", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not self.gate_weight >= 0:
            raise ValueError(f"gate_weight={self.gate_weight} must be 0 or more")
        for name in ("multiple_of", "min_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
