"""The settings of the pruning stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..fields import check_fields
from ..training.config import TrainConfig
from .methods import METHODS
from .plan_config import PlanConfig


@dataclass(frozen=True, kw_only=True)
class DropConfig:
    """How many sublayers go, or which; at most one of the two parameter targets."""

    mlp: int = 0
    """How many MLP sublayers to drop, least important first (Drop-kM; the paper drops 16 of 32)."""
    attention: int = 0
    """How many attention sublayers to drop, least important first (Drop-kA)."""
    block: int = 0
    """How many whole blocks to drop, least important first (Drop-kB)."""
    last_blocks: int = 0
    """How many whole blocks to drop from the end, without scores (Drop-LastkB)."""
    mlp_layers: tuple[int, ...] = ()
    """MLP sublayers to drop by layer, whatever their importance."""
    attention_layers: tuple[int, ...] = ()
    """Attention sublayers to drop by layer, whatever their importance."""
    keep_parameters: float | None = None
    """Drop MLP sublayers until this share of the parameters is left, between 0 and 1."""
    parameters: int | None = None
    """Drop MLP sublayers until at most this many parameters are left, the LM head not counted."""

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


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """How many MLP neurons stay, and what makes up for the others."""

    keep_neurons: float | None = None
    """Share of the neurons of the MLPs left that stays, above 0 and up to 1, where 1 only refits
    these MLPs to make up for dropped sublayers. Default: the neurons that the plan names (from
    `slim`) stay and are refitted."""
    method: str = "reconstruct"
    """What makes up for removed neurons: `reconstruct` refits the output projection by least
    squares, `mean` adds their mean output to its bias, `plain` does nothing."""
    multiple_of: int = 64
    """MLP widths become multiples of this: 64 for kernels, 256 for GGUF, 1 as in the paper."""
    uniform: bool = False
    """Give all MLPs left one width. With no sublayer dropped, or whole blocks, the result is then a
    plain smaller model of its family, which loads without this package."""
    min_width: int = 1
    """No MLP becomes narrower than this many neurons."""
    ridge: float = 1e-3
    """How strongly a refit is pulled towards the present weights, as a share of the mean squared
    activation."""
    correction: float = 0.5
    """Share of the error of earlier layers that a refit has to make good, from 0 to 1."""
    max_length: int | None = None
    """Tokens a calibration text is cut to. Default: the model's own limit."""
    batch_tokens: int = 8192
    """Padded tokens of a forward pass."""
    memory: float = 4.0
    """GiB of hidden states that stay in memory; more go to a temporary file."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is not known; choose {', '.join(METHODS)}")
        fits_any_neurons = METHODS[self.method].fits_any_neurons
        if self.keep_neurons is None and not fits_any_neurons:
            raise ValueError(
                f"method={self.method!r} chooses the neurons itself; say how many with keep_neurons"
            )
        if self.keep_neurons is not None and not 0 < self.keep_neurons <= 1:
            raise ValueError(
                f"keep_neurons={self.keep_neurons} must lie above 0 and be at most 1; 0.5 keeps "
                "half of the neurons"
            )
        for name in ("multiple_of", "min_width", "batch_tokens", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.keep_neurons == 1 and not fits_any_neurons:
            raise ValueError(
                f"keep_neurons=1 removes no neuron, so method={self.method!r} has nothing to do; "
                "keep fewer neurons, or refit the MLPs left (method='reconstruct')"
            )
        if not self.memory >= 0:
            raise ValueError(f"memory={self.memory} must be 0 GiB or more; 0 keeps all on disk")
        if not 0 < self.ridge <= 1:
            raise ValueError(f"ridge={self.ridge} must lie above 0 and be at most 1")
        if not 0 <= self.correction <= 1:
            raise ValueError(f"correction={self.correction} must lie from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """What `compress` removes, and how; with nothing named, half of the MLP neurons go."""

    drop_mlp: int = 0
    """How many MLP sublayers to drop, least important first (eq. 4)."""
    drop_attention: int = 0
    """How many attention sublayers to drop, least important first (eq. 5)."""
    drop_block: int = 0
    """How many whole blocks to drop, least important first."""
    last_blocks: int = 0
    """How many whole blocks to drop from the end, without scores."""
    keep_parameters: float | None = None
    """Drop MLP sublayers until this share of the parameters is left, between 0 and 1."""
    keep_neurons: float | None = None
    """Share of the neurons of the MLPs left that stays, above 0 and up to 1, where 1 only refits
    these MLPs to make up for dropped sublayers. Default: all stay, or half where nothing is
    dropped."""
    keep_quality: float | None = None
    """Share of the full model's quality that must stay, such as 0.99, instead of saying what goes:
    as much goes as a search on your corpus (--calibration) allows; see `effir plan`."""
    method: str = "reconstruct"
    """What makes up for removed neurons: `reconstruct` refits the output projection by least
    squares, `mean` adds their mean output to its bias, `plain` does nothing."""
    multiple_of: int = 64
    """MLP widths become multiples of this: 64 for kernels, 256 for GGUF, 1 as in the paper."""
    uniform: bool = False
    """Give all MLPs left one width. With no sublayer dropped, or whole blocks, the result is then a
    plain smaller model of its family, which loads without this package."""
    calibration: str | None = None
    """Calibration texts: a .jsonl or .txt file, a BEIR folder, a datasets name. Default: the 256
    texts shipped with the package."""
    calibration_texts: int = 256
    """How many calibration texts to draw."""
    max_length: int | None = None
    """Tokens a calibration text is cut to. Default: the model's own limit."""
    dtype: str = "auto"
    """Precision of the written model: auto (the checkpoint's own), fp32, bf16 or fp16."""
    from_disk: bool = False
    """Read the checkpoint layer by layer, for a model that is larger than memory."""
    seed: int = 0
    """Seed of the draw of calibration texts."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.drop_config  # noqa: B018 - refuses bad counts and shares
        if self.calibration_texts < 1:
            raise ValueError(f"calibration_texts={self.calibration_texts} must be at least 1")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length={self.max_length} must be at least 1 token")
        if self.from_disk and self.dtype != "auto":
            raise ValueError(
                f"from_disk copies weights as they are stored; leave dtype={self.dtype!r} out"
            )
        if self.keep_neurons == 1 and not self.drops:
            raise ValueError(
                "keep_neurons=1 with no sublayer dropped would change nothing; keep fewer neurons, "
                "or drop sublayers as well"
            )
        if self.keep_neurons is not None:
            self.reconstruct_config  # noqa: B018 - refuses bad shares and methods
        if self.keep_quality is not None:
            self._check_quality()

    def _check_quality(self) -> None:
        self.plan_config  # noqa: B018 - refuses a bad share
        if self.drops or self.keep_neurons is not None:
            raise ValueError(
                f"keep_quality={self.keep_quality} finds out what goes; leave keep_neurons and "
                "what is to be dropped out"
            )
        if self.from_disk or self.method != "reconstruct":
            raise ValueError(
                f"keep_quality={self.keep_quality} runs whole models whose MLPs are refitted; "
                "leave from_disk and method out"
            )

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
    def plan_config(self) -> PlanConfig:
        """The part that `plan` reads."""
        return PlanConfig(
            keep_quality=self.keep_quality,
            uniform=self.uniform,
            multiple_of=self.multiple_of,
            calibration_texts=self.calibration_texts,
            max_length=self.max_length,
            seed=self.seed,
        )

    @property
    def reconstruct_config(self) -> ReconstructConfig:
        """The part that `reconstruct` reads."""
        return ReconstructConfig(
            keep_neurons=0.5 if self.keep_neurons is None else self.keep_neurons,
            method=self.method,
            multiple_of=self.multiple_of,
            uniform=self.uniform,
            max_length=self.max_length,
        )


LOSSES = ("vectors", "contrastive")


@dataclass(frozen=True, kw_only=True)
class SlimConfig(TrainConfig):
    """How many neurons go, and by what: gradients of examples, or the paper's trained gates."""

    after_training = ("sparsity", "multiple_of", "min_width", "uniform")
    """Trained gates can be cut at any sparsity."""
    sparsity: float = 0.3
    """Share of the neurons of the MLPs left that goes, between 0 and 1 (the paper: 0.3)."""
    loss: str = "contrastive"
    """What tokens count by, where no gates are trained: `contrastive` (the direction in which the
    loss of the examples pulls each vector) or `vectors` (the distance to the full model's vectors,
    without labels)."""
    examples: int = 256
    """How many examples the gradients are taken of."""
    ridge: float = 1e-3
    """How strongly the refit is pulled towards the present weights, as a share of the mean squared
    activation."""
    correction: float = 0.5
    """Share of the error of earlier layers that the refit has to make good, from 0 to 1."""
    paper: bool = False
    """Train gates as the paper does (equations 7, 8), refitting nothing. The settings of training
    are for this alone."""
    steps: int | None = 500
    """Optimizer steps of the gates (the paper: 500)."""
    learning_rate: float = 1e-5
    """Highest learning rate of the weights, where they are trained as well as the gates."""
    gate_learning_rate: float = 1e-2
    """Learning rate of the gates; the paper does not state it."""
    beta: float = 5.0
    """Steepness of the surrogate of the gates' number (eq. 8)."""
    gate_weight: float = 1e-8
    """lambda of eq. 8: how much the number of open gates counts."""
    temperature: float | None = None
    """Temperature of the contrastive loss. Default: 0.05, and 0.02 for gates as in the paper."""
    train_base: bool = False
    """Train the weights as well as the gates; the paper can be read either way."""
    multiple_of: int = 64
    """MLP widths become multiples of this: 64 for kernels, 256 for GGUF, 1 as in the paper."""
    uniform: bool = False
    """Give all MLPs left one width. With no sublayer dropped, or whole blocks, the result is then a
    plain smaller model of its family, which loads without this package."""
    min_width: int = 1
    """No MLP becomes narrower than this many neurons."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise ValueError(
                f"sparsity={self.sparsity} must lie between 0 and 1, ends excluded; 0.3 removes "
                "three neurons of ten"
            )
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r} is not known; choose {', '.join(LOSSES)}")
        if self.train_base and not self.paper:
            raise ValueError("train_base=True trains weights with gates; set paper=True as well")
        for name in ("gate_learning_rate", "beta", "loss_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name.removeprefix('loss_')}={getattr(self, name)} must be above 0"
                )
        if not self.gate_weight >= 0:
            raise ValueError(f"gate_weight={self.gate_weight} must be 0 or more")
        for name in ("multiple_of", "min_width", "examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        self.reconstruct_config  # noqa: B018 - refuses a bad ridge and correction

    @property
    def loss_temperature(self) -> float:
        """Of the contrastive loss."""
        if self.temperature is not None:
            return self.temperature
        return 0.02 if self.paper else 0.05

    @property
    def reconstruct_config(self) -> ReconstructConfig:
        """How neurons are ranked and projections refitted, where no gates are trained."""
        return ReconstructConfig(
            keep_neurons=1 - self.sparsity,
            multiple_of=self.multiple_of,
            min_width=self.min_width,
            uniform=self.uniform,
            ridge=self.ridge,
            correction=self.correction,
            max_length=self.max_length,
        )
