"""Look at a model folder or a run folder: what is there, how wide, what went."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..files import folder_bytes
from ..html_table import html_table
from ..model.families import is_stock
from ..model.plan import IMPORTANCE_FILE, PLAN_FILE, ImportanceReport, PruningPlan
from ..model.tables import importance_table, plan_table, short_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What `show` found; printed, it is the table of `effir show`."""

    kind: str
    """`model`, `plan` or `importance`."""
    values: Mapping[str, Any]
    """What `effir show --json` prints."""
    table: Table
    """One row a layer."""

    def __str__(self) -> str:
        """Return the table as text, 120 columns wide."""
        console = Console(file=io.StringIO(), width=120, highlight=False)
        with console.capture() as captured:
            console.print(self.table)
        return captured.get()

    def _repr_html_(self) -> str:
        """Return the table as a notebook shows it."""
        return html_table(self.table)


def show(folder: str | Path) -> Shown:
    """Look at a folder as `effir show` does, without loading weights.

    Args:
        folder: A model folder, bare or Sentence Transformers, pruned or not; or a run folder.

    Raises:
        FileNotFoundError: It is neither.
        ValueError: The model's family is not supported, or a file is damaged.
    """
    folder = Path(folder)
    if (folder / PLAN_FILE).is_file():
        plan = PruningPlan.load(folder)
        values = {"kind": "plan", **plan_summary(plan)}
        return Shown(kind="plan", values=values, table=plan_table(plan))
    if (folder / IMPORTANCE_FILE).is_file():
        report = ImportanceReport.load(folder)
        values = {"kind": "importance", "base": report.base.name, "block": report.block,
                  "attention": report.attention, "mlp": report.mlp}  # fmt: skip
        return Shown(kind="importance", values=values, table=importance_table(report))
    values = _describe_model(folder)
    return Shown(kind="model", values=values, table=model_table(values))


def _describe_model(folder: Path) -> dict[str, Any]:
    from ..encoder.history import read_history
    from ..encoder.sources import find_folder, transformer_folder
    from ..files import read_json
    from ..model.rewrite import identity_on_disk

    place = find_folder(folder)
    identity = identity_on_disk(place)
    config = read_json(transformer_folder(place) / "config.json", "the config of a model")
    return {
        "kind": "model",
        "model": str(folder),
        "family": identity.family,
        "model_type": config["model_type"],
        "layers": identity.layers,
        "hidden_size": identity.hidden_size,
        "mlp_widths": identity.mlp_widths,
        "dropped_attention": identity.dropped_attention,
        "parameters": identity.parameters,
        "bytes": folder_bytes(place),
        "history": read_history(place),
    }


def plan_summary(plan: PruningPlan) -> dict[str, Any]:
    """Return the figures of a plan for `--json`."""
    return {
        "base": plan.base.name,
        "family": plan.base.family,
        "drop_mlp": plan.drop_mlp,
        "drop_attention": plan.drop_attention,
        "mlp_widths_before": plan.base.mlp_widths,
        "mlp_widths": plan.mlp_widths,
        "parameters_before": plan.base.parameters,
        "parameters": plan.parameters,
    }


def model_table(description: dict[str, Any]) -> Table:
    """Lay out the layers of a model folder."""
    history = description["history"] or {}
    before = _widths_before(history, description["mlp_widths"])
    stock = is_stock(description["model_type"])
    loads = "any library loads it" if stock else "loads with this package or trust_remote_code"
    origin = f"pruned from {escape(short_name(history['base']))}; " if history else ""
    table = Table(
        title=f"{escape(short_name(description['model']))}: {description['family']}, "
        f"{description['parameters']:,} parameters without LM head, "
        f"{description['bytes'] / 1e6:,.1f} MB",
        caption=f"{origin}model type {description['model_type']}: {loads}",
    )
    for name in ("layer", "attention", "MLP width"):
        table.add_column(name, justify="right")
    for layer, width in enumerate(description["mlp_widths"]):
        attention = "dropped" if layer in description["dropped_attention"] else "kept"
        was = "" if before[layer] == width else f" (was {before[layer]:,})"
        table.add_row(str(layer), attention, (f"{width:,}" if width else "dropped") + was)
    return table


def _widths_before(history: Mapping[str, Any], widths: Sequence[int]) -> Sequence[int]:
    """Return the base's MLP width of each layer that is left."""
    before = history.get("mlp_widths_before", widths)
    if len(before) == len(widths):
        return list(before)
    gone = {*history["drop_attention"], *history.get("dropped_attention_before", ())}
    pairs = enumerate(zip(before, history["mlp_widths"], strict=True))
    return [old for layer, (old, new) in pairs if new or layer not in gone]
