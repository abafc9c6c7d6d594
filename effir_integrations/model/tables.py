"""What was measured of a model's layers, and what goes from them: tables, one row a layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ..html_table import bar, heat, html_table

if TYPE_CHECKING:
    from .plan import ImportanceReport, PruningPlan


def importance_table(report: ImportanceReport) -> Table:
    """Lay out the importance of every sublayer: 1 - cosine, mean over tokens."""
    name = escape(short_name(report.base.name))
    table = Table(title=f"Importance of the sublayers of {name} (eq. 3)")
    for heading in ("layer", "attention", "MLP", "block"):
        table.add_column(heading, justify="right")
    rows = zip(report.attention, report.mlp, report.block, strict=True)
    for layer, scores in enumerate(rows):
        table.add_row(str(layer), *("-" if x is None else f"{x:.4f}" for x in scores))
    return table


def importance_html(report: ImportanceReport) -> str:
    """Return the same for a notebook: the deeper a cell, the more important in its column."""
    scores = {"attention": report.attention, "MLP": report.mlp, "block": report.block}
    return html_table(importance_table(report), {name: heat(x) for name, x in scores.items()})


def plan_table(plan: PruningPlan, report: ImportanceReport | None = None) -> Table:
    """Lay out what goes and what stays, layer by layer."""
    base, widths = plan.base, plan.mlp_widths
    gone = {*base.dropped_attention, *plan.drop_attention}
    share = plan.parameters / base.parameters
    table = Table(
        title=f"{escape(short_name(base.name))}: {base.parameters:,} parameters without LM head "
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


def plan_html(plan: PruningPlan, report: ImportanceReport | None = None, note: str = "") -> str:
    """Return the same for a notebook, with a bar for what stays of every sublayer.

    Args:
        plan: What goes.
        report: What was measured before.
        note: A line below the table.
    """
    gone = {*plan.base.dropped_attention, *plan.drop_attention}
    widest = max(plan.base.mlp_widths) or 1
    shades = {
        "attention": [bar(layer not in gone) for layer in range(plan.base.layers)],
        "MLP width": [bar(width / widest) for width in plan.mlp_widths],
    }
    if report is not None:
        shades |= {"MLP score": heat(report.mlp), "attention score": heat(report.attention)}
    table = plan_table(plan, report)
    table.caption = escape(note)
    return html_table(table, shades)


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


def short_name(name: str) -> str:
    """Return the last part of a folder or hub name."""
    return Path(name).name or name
