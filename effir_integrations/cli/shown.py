"""Look at a model folder or a run folder: what is there, how wide, what went."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..files import folder_bytes
from ..model.families import is_stock
from ..model.plan import IMPORTANCE_FILE, PLAN_FILE, ImportanceReport, PruningPlan


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


def importance_table(report: ImportanceReport) -> Table:
    """Lay out the importance of every sublayer: 1 - cosine, mean over tokens."""
    table = Table(title=f"Importance of the sublayers of {_short(report.base.name)} (eq. 3)")
    for name in ("layer", "attention", "MLP", "block"):
        table.add_column(name, justify="right")
    rows = zip(report.attention, report.mlp, report.block, strict=True)
    for layer, scores in enumerate(rows):
        table.add_row(str(layer), *("-" if x is None else f"{x:.4f}" for x in scores))
    return table


def plan_table(plan: PruningPlan, report: ImportanceReport | None = None) -> Table:
    """Lay out what goes and what stays, layer by layer."""
    base, widths = plan.base, plan.mlp_widths
    gone = {*base.dropped_attention, *plan.drop_attention}
    share = plan.parameters / base.parameters
    table = Table(
        title=f"{_short(base.name)}: {base.parameters:,} parameters without LM head "
        f"-> {plan.parameters:,} ({share:.1%})",
        show_footer=True,
    )
    table.add_column("layer", "all", justify="right")
    kept = base.layers - len(gone)
    table.add_column("attention", f"{kept} of {base.layers}", justify="right")
    total = f"{sum(base.mlp_widths):,} -> {sum(widths):,}"
    table.add_column("MLP width", total, justify="right")
    if report is not None:
        table.add_column("MLP score", justify="right")
        table.add_column("attention score", justify="right")
    table.add_column("parameters", f"{base.parameters:,} -> {plan.parameters:,}", justify="right")
    for layer in range(base.layers):
        table.add_row(*_plan_row(plan, report, layer, layer in gone))
    return table


def _plan_row(
    plan: PruningPlan, report: ImportanceReport | None, layer: int, no_attention: bool
) -> list[str]:
    base = plan.base
    before, after = base.mlp_widths[layer], plan.mlp_widths[layer]
    mlp = base.mlp_parameters[layer]
    if layer in plan.drop_mlp:
        mlp = 0
    else:
        mlp -= (before - after) * base.neuron_parameters
    attention = 0 if no_attention else base.attention_parameters[layer]
    width = f"{before:,}" if before == after else f"{before:,} -> {after:,}"
    row = [str(layer), "dropped" if no_attention else "kept"]
    row.append(width if after else f"{before:,} -> dropped")
    if report is not None:
        scores = (report.mlp[layer], report.attention[layer])
        row += ["-" if score is None else f"{score:.4f}" for score in scores]
    total = base.attention_parameters[layer] + base.mlp_parameters[layer]
    now = attention + mlp
    row.append(f"{total:,}" if now == total else f"{total:,} -> {now:,}")
    return row


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
    origin = f"pruned from {_short(history['base'])}; " if history else ""
    table = Table(
        title=f"{_short(description['model'])}: {description['family']}, "
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


def _short(name: str) -> str:
    return Path(name).name or name
