"""The plans that `plan` weighed against each other, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ..html_table import bar, html_table
from ..model.tables import plan_html, short_name

if TYPE_CHECKING:
    from .search_plans import Planned


def points_table(found: Planned) -> Table:
    """Lay the points of a plan out, the slowest first."""
    full, setting = found.costs.full, found.costs.setting
    table = Table(
        title=f"plans for {escape(short_name(found.plan.base.name))}",
        caption=f"the full model takes {full:,.2f} ms for a {setting['role']} of about "
        f"{setting['tokens']} tokens, {setting['threads']} threads; ~ is estimated",
    )
    for name in ("point", "time", "ms", "MB", "quality kept", "attentions gone", "MLP neurons"):
        table.add_column(name, justify="right", overflow="fold")
    for place, each in enumerate(found.points):
        about = "" if each.measured else "~"
        table.add_row(
            f"{place} <-" if place == found.chosen else f"{place}",
            f"{about}{each.latency:.2f}",
            f"{about}{each.latency * full:,.2f}",
            f"{each.megabytes:,.1f}",
            _quality(each.quality, each.quality_interval),
            f"{len(each.drop_attention)}",
            f"{sum(each.mlp_widths) / sum(found.plan.base.mlp_widths):.0%}",
        )
    return table


def planned_html(found: Planned) -> str:
    """Return the points for a notebook, with a bar for each share, and the chosen plan below."""
    neurons = sum(found.plan.base.mlp_widths)
    shades = {
        "time": [bar(x.latency) for x in found.points],
        "quality kept": [bar(x.quality or 0.0) for x in found.points],
        "MLP neurons": [bar(sum(x.mlp_widths) / neurons) for x in found.points],
    }
    return html_table(points_table(found), shades) + plan_html(found.plan)


def _quality(share: float | None, ends: tuple[float, float] | None) -> str:
    if share is None:
        return "not measured"
    return f"~{share:.3f}" if ends is None else f"{share:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"
