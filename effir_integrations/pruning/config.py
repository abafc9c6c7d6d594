"""The settings of the pruning stages that train nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..fields import check_fields
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


COUNTED_BY = ("gradients", "stream")


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
    count_by: str | None = None
    """What an error at a token counts by: `gradients` (how far it moves the text's vector: one
    backward pass, no labels, no training) or `stream` (as a share of the token's hidden state).
    Default: gradients, and stream where layers are read from disk."""
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
        self._check_count_by()
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

    def _check_count_by(self) -> None:
        if self.count_by not in (None, *COUNTED_BY):
            raise ValueError(
                f"count_by={self.count_by!r} is not known; choose {' or '.join(COUNTED_BY)}"
            )
        if self.count_by == "gradients" and not METHODS[self.method].fits_any_neurons:
            raise ValueError(
                f"method={self.method!r} fits nothing that tokens could count in; leave "
                "count_by='gradients' out"
            )


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
    """Read the checkpoint layer by layer, for a model that is larger than memory; then tokens count
    by their hidden states, since gradients need all layers."""
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
