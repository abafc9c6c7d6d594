"""What every stage writes down of itself in `made_by`, whatever else it adds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..fields import blamed_on, check_fields


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What an entry of `made_by` says in any case; the rest is up to its stage."""

    stage: str = ""
    """drop, reconstruct, slim, plan, finetune, distill or map."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Its settings."""
    calibration: Mapping[str, Any] | None = None
    """Texts that it measured on."""
    data: Mapping[str, Any] | None = None
    """Examples that it trained on."""

    def __post_init__(self) -> None:
        check_fields(self)


def check_records(made_by: Iterable[Mapping[str, Any]]) -> None:
    """Refuse entries of `made_by` that no stage writes.

    Raises:
        ValueError: Names the entry and its field.
    """
    known = {one.name for one in fields(StageRecord)}
    for index, record in enumerate(made_by):
        with blamed_on(f"made_by[{index}]"):
            StageRecord(**{name: value for name, value in record.items() if name in known})
