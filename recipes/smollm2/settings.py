"""What the retriever's weights depend on, besides the texts: on a CPU, on a GPU, and to try it."""

from __future__ import annotations

from dataclasses import dataclass, field

from effir_integrations.training.config import AdaptConfig, DistillConfig, FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The shape of the encoder and how much is trained."""

    seed: int = 0
    layers: int | None = None
    """The decoder's first so many layers are kept. Default: all."""
    pooling: str = "mean"
    bidirectional: bool = False
    """Let every token attend to those after it as well."""
    adapt: bool = False
    """Adapt the decoder first, on the texts of the first round, which distillation then leaves
    out: with and without it, as many texts are read."""
    adapting: AdaptConfig = field(default_factory=AdaptConfig)
    length: int = 256
    """Tokens that the retriever cuts a text to, once it is made."""
    head_texts: int = 4_000
    """Texts that the Dense is solved on."""
    rounds: int = 4
    """Distillation is cut into so many runs, with the held-out claims measured after each."""
    round_texts: int = 4_000
    """Texts of a round; no text is in two."""
    rates: tuple[float, ...] = (1e-3, 8e-4, 6e-4, 4e-4)
    """Highest learning rate of each round."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    other_pairs: int = 800
    """Pairs of gathered texts, beside the judged claims."""
    negatives: int = 2
    mining_length: int = 128
    """Tokens that the teacher cuts a passage to where it looks for negatives."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    curve_claims: int = 100
    curve_documents: int = 500
    curve_length: int = 64
    """Tokens that documents are cut to where the curve is measured."""

    def __post_init__(self) -> None:
        if len(self.rates) != self.rounds:
            raise ValueError(f"{len(self.rates)} rates for {self.rounds} rounds; give one for each")


CPU = Settings(
    layers=10,
    head_texts=8_000,
    rounds=4,
    round_texts=8_000,
    rates=(1e-3, 1e-3, 7e-4, 4e-4),
    adapting=AdaptConfig(
        trains="lora",
        rank=64,
        alpha=128.0,
        batch_size=32,
        learning_rate=5e-4,
        similar_lengths=True,
        max_length=64,
        save_steps=20,
    ),
    distill=DistillConfig(
        trains="lora",
        rank=64,
        alpha=128.0,
        batch_size=32,
        similar_lengths=True,
        max_length=64,
        save_steps=20,
    ),
    finetune=FinetuneConfig(
        trains="lora",
        batch_size=16,
        learning_rate=3e-4,
        temperature=0.05,
        similar_lengths=True,
        max_length=64,
        save_steps=20,
    ),
)

GPU = Settings(
    head_texts=20_000,
    rounds=2,
    round_texts=58_000,
    rates=(3e-4, 2e-4),
    adapting=AdaptConfig(
        trains="all",
        batch_size=128,
        epochs=2.0,
        similar_lengths=True,
        max_length=128,
        save_steps=200,
    ),
    distill=DistillConfig(
        trains="all",
        batch_size=128,
        epochs=2.0,
        similar_lengths=True,
        max_length=128,
        save_steps=200,
    ),
    other_pairs=8_000,
    finetune=FinetuneConfig(
        trains="all",
        batch_size=128,
        # all texts of a batch at once would take some 50 GB
        mini_batch_size=128,
        learning_rate=5e-5,
        temperature=0.05,
        similar_lengths=True,
        max_length=128,
        save_steps=200,
    ),
)

SMOKE = Settings(
    layers=2,
    length=64,
    head_texts=120,
    rounds=2,
    round_texts=8,
    rates=(1e-3, 5e-4),
    adapting=AdaptConfig(trains="lora", rank=4, batch_size=2, max_length=16),
    distill=DistillConfig(trains="lora", rank=4, batch_size=4, max_length=16),
    other_pairs=8,
    mining_length=16,
    finetune=FinetuneConfig(trains="lora", rank=4, batch_size=4, max_length=16),
    curve_claims=10,
    curve_documents=20,
    curve_length=16,
)
