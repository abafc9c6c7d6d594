"""What was done to a model, written into its folder as `effir.json` and as a model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..fields import blamed_on, check_fields, from_mapping
from ..files import read_json, write_json
from ..model.identity import BaseIdentity
from ..model.modeling import HISTORY_FILE
from ..model.plan import PruningPlan
from ..model.stage_record import check_records
from .encoder import transformer_model
from .model_card import write_model_card
from .space_record import SPACE, Space


def history_of(plan: PruningPlan) -> dict[str, Any]:
    """Return the history of a model that a plan was carried out on."""
    return {
        "base": plan.base.name,
        "revision": plan.base.revision,
        "family": plan.base.family,
        "fingerprint": plan.base.fingerprint,
        "drop_mlp": plan.drop_mlp,
        "drop_attention": plan.drop_attention,
        "dropped_attention_before": plan.base.dropped_attention,
        "mlp_widths": plan.mlp_widths,
        "mlp_widths_before": plan.base.mlp_widths,
        "parameters": plan.parameters,
        "parameters_before": plan.base.parameters,
        "made_by": plan.made_by,
        "versions": plan.versions,
    }


@dataclass(frozen=True, kw_only=True)
class _History:
    """What `effir.json` holds, as of `history_of`."""

    base: str
    family: str
    fingerprint: str
    drop_mlp: tuple[int, ...]
    drop_attention: tuple[int, ...]
    mlp_widths: tuple[int, ...]
    mlp_widths_before: tuple[int, ...]
    parameters: int
    parameters_before: int
    made_by: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, str]
    revision: str | None = None
    dropped_attention_before: tuple[int, ...] = ()
    space: Space | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_records(self.made_by)
        if len(self.mlp_widths) != len(self.mlp_widths_before):
            raise ValueError(
                f"mlp_widths has {len(self.mlp_widths)} layers and mlp_widths_before "
                f"{len(self.mlp_widths_before)}; put the file back as it was written"
            )
        if self.parameters_before < 1:
            raise ValueError(f"parameters_before={self.parameters_before} must be at least 1")


def read_history(folder: Path) -> dict[str, Any] | None:
    """Return the history that lies in a model's folder, or None where there is none.

    Raises:
        ValueError: It is damaged.
    """
    path = folder / HISTORY_FILE
    if not path.is_file():
        return None
    content = read_json(path, "what `effir export` writes")
    with blamed_on(path):
        from_mapping(_History, content)
    return content


def history_at(encoder: Any, name: str | Path) -> dict[str, Any]:
    """Return the history that lies in a model's folder, or a fresh one for a model without."""
    return read_history(Path(name)) or history_of(
        PruningPlan(base=BaseIdentity.of(transformer_model(encoder), str(name)))
    )


def with_stage(history: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a history with one more stage at its end, which says nothing of a space any more."""
    return {**in_space(history, None), "made_by": [*history["made_by"], record]}


def in_space(history: Mapping[str, Any], space: Space | None) -> dict[str, Any]:
    """Return a history that names the model whose documents can be searched, or none."""
    kept = {key: value for key, value in history.items() if key != SPACE}
    return kept if space is None else {**kept, SPACE: asdict(space)}


def write_history(folder: Path, history: Mapping[str, Any], base_card: str | None = None) -> None:
    """Write the history and the model card into a model folder.

    Args:
        folder: Of the model.
        history: As of `history_of`.
        base_card: The card of the model it was made from.
    """
    write_json(folder / HISTORY_FILE, history)
    write_model_card(folder, history, base_card)
