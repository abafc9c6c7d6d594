"""The settings of `slim`."""

from __future__ import annotations

from dataclasses import dataclass

from ..training.config import TrainConfig
from .config import ReconstructConfig


@dataclass(frozen=True, kw_only=True)
class SlimConfig(TrainConfig):
    """How many neurons go, and by what: gradients of examples, or the paper's trained gates."""

    after_training = ("sparsity", "multiple_of", "min_width", "uniform")
    """Trained gates can be cut at any sparsity."""
    sparsity: float = 0.3
    """Share of the neurons of the MLPs left that goes, between 0 and 1 (the paper: 0.3)."""
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
