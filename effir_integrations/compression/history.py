"""What was done to a model, written into its folder as `effir.json` and as a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..artifacts import PruningPlan
from ..encoder import transformer_model
from ..files import read_json, write_json
from ..identity import BaseIdentity
from ..modeling import HISTORY_FILE
from .model_card import write_model_card


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


def read_history(folder: Path) -> dict[str, Any] | None:
    """Return the history that lies in a model's folder, or None where there is none."""
    path = folder / HISTORY_FILE
    return read_json(path, "what `effir export` writes") if path.is_file() else None


def history_at(encoder: Any, name: str | Path) -> dict[str, Any]:
    """Return the history that lies in a model's folder, or a fresh one for a model without."""
    return read_history(Path(name)) or history_of(
        PruningPlan(base=BaseIdentity.of(transformer_model(encoder), str(name)))
    )


def with_stage(history: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a history with one more stage at its end."""
    return {**history, "made_by": [*history["made_by"], record]}


def write_history(folder: Path, history: Mapping[str, Any], base_card: str | None = None) -> None:
    """Write the history and the model card into a model folder.

    Args:
        folder: Of the model.
        history: As of `history_of`.
        base_card: The card of the model it was made from.
    """
    write_json(folder / HISTORY_FILE, history)
    write_model_card(folder, history, base_card)
