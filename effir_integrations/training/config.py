"""The settings that all training stages share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..fields import check_fields

NO_LOSSES = ("epoch", "grad_norm", "learning_rate")
"""What the trainer logs beside the step, the loss and its terms."""
HELD_OUT = "held_out_cosine"
"""Under which name the cosine to the teacher is logged, of texts that are not trained on."""
TRAINING_PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and how exactly a stage trains."""

    after_training: ClassVar[tuple[str, ...]] = ()
    """Settings that matter only once training is over: checkpoints serve any value of them."""
    batch_size: int = 32
    """Examples of a step, over all processes together."""
    steps: int | None = None
    """Optimizer steps, instead of epochs. Default: as many as the epochs have."""
    epochs: float = 1.0
    """Passes over the examples (the paper: 1)."""
    learning_rate: float = 1e-4
    """Highest learning rate of AdamW (the paper: 1e-4 for LoRA)."""
    weight_decay: float = 0.0
    """Weight decay of AdamW; the paper does not state it."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; it then falls linearly to 0."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    similar_lengths: bool = False
    """Make batches of texts of like length, which saves padding."""
    max_length: int | None = None
    """Tokens a text is cut to while training. Default: the model's own limit."""
    mini_batch_size: int | None = None
    """Texts in memory at a time (gradient caching), for large batches. Default: the whole batch."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""
    model_dropout: bool = False
    """Keep the dropout that the base's config names; decoders have none."""
    precision: str = "auto"
    """Arithmetic of the training: bf16, fp32, or auto, which is bf16 where the hardware has it."""
    seed: int = 0
    """Seed of the order of the examples, of new weights and of dropout."""
    save_steps: int = 100
    """Steps between two checkpoints; it changes no result."""
    report_to: str = "none"
    """Logger of Transformers to report to, such as tensorboard, wandb or mlflow."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("batch_size", "steps", "max_length", "mini_batch_size", "save_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        for name in ("epochs", "learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay} must be 0 or more")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} is a share of the steps; from 0 to below 1")
        if self.precision not in TRAINING_PRECISIONS:
            raise ValueError(
                f"precision={self.precision!r} is not known; choose "
                f"{', '.join(TRAINING_PRECISIONS)}"
            )

    @property
    def computes_in_bf16(self) -> bool:
        """Whether matrix products are taken in bf16 (weights that train stay in fp32)."""
        from ..encoder.precision import has_bf16

        return has_bf16() if self.precision == "auto" else self.precision == "bf16"

    def steps_for(self, examples: int) -> int:
        """Return the number of optimizer steps.

        Raises:
            ValueError: There are fewer examples than a batch holds.
        """
        if examples < self.batch_size:
            raise ValueError(
                f"{examples} examples do not fill one batch of {self.batch_size}; lower the batch "
                "size, or give more examples"
            )
        return self.steps or max(1, int(self.epochs * examples) // self.batch_size)


TRAINS = ("lora", "all")


@dataclass(frozen=True, kw_only=True)
class HealConfig(TrainConfig):
    """Which weights train."""

    trains: str = "lora"
    """What trains: `lora` (an adapter on every projection, merged at the end) or `all` weights."""
    rank: int = 32
    """Rank of the adapter (the paper: 32)."""
    alpha: float = 64.0
    """The adapter is scaled by alpha / rank (the paper: 64)."""
    adapter_dropout: float = 0.0
    """Dropout of the adapter's input; the paper does not state it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trains not in TRAINS:
            raise ValueError(f"trains={self.trains!r} is not known; choose {', '.join(TRAINS)}")
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1")
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha} must be above 0")
        if not 0 <= self.adapter_dropout < 1:
            raise ValueError(f"adapter_dropout={self.adapter_dropout} must lie from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(HealConfig):
    """What is learned from, and how."""

    temperature: float = 0.02
    """Temperature of the contrastive loss (the paper: 0.02)."""
    teacher_weight: float = 1.0
    """Weight of the divergence from the teacher's scores, where the examples carry them; 0
    ignores them (the paper sums the two losses)."""
    teacher_temperature: float = 1.0
    """What the teacher's scores are divided by; the paper does not state it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "teacher_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not self.teacher_weight >= 0:
            raise ValueError(f"teacher_weight={self.teacher_weight} must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(HealConfig):
    """What the embedding must predict, and how it is trained to."""

    own_weight: float = 1.0
    """Weight of predicting the tokens of the text itself; 0 leaves it out."""
    next_weight: float = 1.0
    """Weight of predicting the tokens of the sentence after it; 0 leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("own_weight", "next_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        if not self.own_weight + self.next_weight > 0:
            raise ValueError("own_weight=0 and next_weight=0 leave nothing to predict; raise one")
        if self.mini_batch_size is not None:
            raise ValueError(
                f"mini_batch_size={self.mini_batch_size} is for the contrastive loss alone; lower "
                "batch_size instead"
            )


TARGETS = ("vectors", "similarities")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(HealConfig):
    """What of the teacher is followed, and how."""

    target: str = "vectors"
    """What of the teacher is followed: `vectors` (each text's vector: the student stays in the
    teacher's space and reads its index) or `similarities` (the cosines between the texts of a
    batch, for a teacher of any size)."""
    trains: str = "all"
    """What trains: `all` weights, or `lora` (an adapter on every projection, merged at the end)."""
    learning_rate: float = 3e-4
    """Highest learning rate of AdamW."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in TARGETS:
            raise ValueError(f"target={self.target!r} is not known; choose {', '.join(TARGETS)}")
        if self.mini_batch_size is not None:
            raise ValueError(
                f"mini_batch_size={self.mini_batch_size} is for the contrastive loss alone; lower "
                "batch_size instead"
            )
