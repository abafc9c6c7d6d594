"""What a plan has to reach, and on what it is measured."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import check_fields

ROLES = ("document", "query")
_SHARES = ("keep_quality", "latency", "keep_parameters")


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Targets of `plan`, one or any of them together, and how it goes about it."""

    keep_quality: float | None = None
    """Share of the full model's quality that must stay, such as 0.99: the mean reciprocal rank of
    known items of your texts. Alone, the fastest plan that keeps it is searched for."""
    latency: float | None = None
    """Share of the full model's time for a text that may be taken, such as 0.5."""
    keep_parameters: float | None = None
    """Share of the parameters that may stay, between 0 and 1."""
    memory: float | None = None
    """Megabytes that the weights may take, the LM head not counted."""
    role: str = "document"
    """What is timed, and whose vectors change: `document` (all texts are encoded anew) or `query`
    (queries, on documents that the full model encoded)."""
    batch: int | None = None
    """Texts in a call that is timed. Default: 32 documents, or one query."""
    length: int | None = None
    """Tokens of every text that is timed. Default: texts as they are."""
    uniform: bool = False
    """Drop whole blocks alone and give all MLPs left one width, which gives a plain smaller model
    of its family that loads without this package."""
    multiple_of: int = 64
    """MLP widths become multiples of this: 64 for kernels, 256 for GGUF, 1 as in the paper."""
    candidates: int = 3
    """How many plans are made and measured before one is chosen."""
    calibration_texts: int = 256
    """How many texts neurons are ranked and refitted on; known items are never among them."""
    documents: int = 1000
    """In how many documents known items are searched, at most."""
    queries: int = 400
    """How many known items are asked for, at most."""
    max_length: int | None = None
    """Tokens a text is cut to. Default: the model's own limit."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in _SHARES:
            if (share := getattr(self, name)) is not None and not 0 < share < 1:
                raise ValueError(
                    f"{name}={share} must lie between 0 and 1, ends excluded; 0.5 is half of the "
                    "full model's"
                )
        if self.memory is not None and self.memory <= 0:
            raise ValueError(f"memory={self.memory} must be above 0 megabytes")
        if self.role not in ROLES:
            raise ValueError(f"role={self.role!r} is not known; choose {', '.join(ROLES)}")
        counts = ("multiple_of", "candidates", "calibration_texts", "documents", "queries")
        for name in (*counts, "batch", "length", "max_length"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"{name}={count} must be at least 1")

    @property
    def targets(self) -> dict[str, float]:
        """What is asked for, by name."""
        names = (*_SHARES, "memory")
        return {name: x for name in names if (x := getattr(self, name)) is not None}
