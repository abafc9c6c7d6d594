"""How the plot of the README is drawn, from its figures alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effir_integrations.evaluation.plots import new_figure, write_png

PUBLISHED = "as published"
STYLES = (
    ("#2f353d", "D", "-"),
    ("#1d4f91", "o", "-"),
    ("#1d4f91", "o", ":"),
    ("#b03a2e", "s", "-"),
    ("#b03a2e", "s", ":"),
    ("#2e7d55", "o", "-"),
)
"""Colour, marker and line of each series, in the order of the rows; dotted: hollow markers."""
PHONE = 12
"""Points of the letters: legible where the 6.4 inches of the plot are half of a phone's width."""
STEPS = (1, 1.5, 2, 3, 4, 5, 7)
RADIUS = 6
"""Pixels of a canvas of 100 a inch that a point takes to each side."""
SIDES = (
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (9, 0, "left", "center"),
    (-9, 0, "right", "center"),
    (7, 7, "left", "bottom"),
    (-7, 7, "right", "bottom"),
    (7, -7, "left", "top"),
    (-7, -7, "right", "top"),
    (0, 24, "center", "bottom"),
    (0, -24, "center", "top"),
)
"""Where a label may stand, from its point, in order of preference."""


def draw(found: dict[str, Any], path: Path) -> Path:
    """Draw the share of nDCG@10 against documents a second, and lines from a model to its versions.

    Args:
        found: What readme_plot.py writes.
        path: A PNG.
    """
    figure = new_figure(6.4, 6.0)
    axes = figure.subplots()
    axes.set_xscale("log")
    rows = found["rows"]
    bases = {row["name"]: row for row in rows}
    colours = {}
    for place, series in enumerate(dict.fromkeys(row["series"] for row in rows)):
        of_series = [row for row in rows if row["series"] == series]
        colours[series], marker, stroke = STYLES[place % len(STYLES)]
        look: dict[str, Any] = {"color": colours[series], "marker": marker, "markersize": 8}
        look["markerfacecolor"] = colours[series] if stroke == "-" else "white"
        if series == PUBLISHED:
            axes.plot(*_points(of_series), linestyle="", label=series, **look)
        else:
            line = [bases[of_series[0]["base"]], *of_series]
            marked = range(1, len(line))
            axes.plot(*_points(line), stroke, label=series, markevery=marked, **look)
        _spreads(axes, of_series, colours[series])
    _finish(axes, found)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=PHONE - 1)
    label_points(figure, axes, rows, colours)
    return write_png(figure, path, dpi=140)


def _points(rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [row["documents/s"] for row in rows], [100 * row["share"] for row in rows]


def _spreads(axes: Any, rows: Sequence[dict[str, Any]], colour: str) -> None:
    """Draw intervals of the share upwards, and the slowest and the fastest round across."""
    look: dict[str, Any] = {"color": colour, "alpha": 0.35, "linewidth": 2, "zorder": 1.5}
    for row, across, up in zip(rows, *_points(rows), strict=True):
        low, high = row["interval"]
        axes.vlines(across, 100 * low, 100 * high, **look)
        axes.hlines(up, *row["documents/s, slowest and fastest round"], **look)


def _finish(axes: Any, found: dict[str, Any]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    settings, machine = found["settings"], found["machine"]
    axes.set_title(
        f"{settings['data']}: {settings['documents']:,} documents, {settings['queries']} queries, "
        f"{settings['max_length']} tokens\n"
        f"{settings['dtype']}, {machine['threads']} threads, median of {machine['rounds']} rounds",
        fontsize=PHONE - 1,
    )
    axes.set_xlabel("documents encoded a second", fontsize=PHONE)
    axes.set_ylabel(f"% of {settings['model']}'s nDCG@10", fontsize=PHONE)
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.08, high * 1.12)
    ticks = [step * 10**power for power in range(-2, 7) for step in STEPS]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.tick_params(labelsize=PHONE - 1)
    axes.grid(color="#e9edf2")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def label_points(
    figure: Any, axes: Any, rows: Sequence[dict[str, Any]], colours: dict[str, str]
) -> list[Any]:
    """Name every point beside it, where the name covers no point and no other name."""
    from matplotlib.transforms import Bbox

    figure.canvas.draw()  # the layout is known from here on
    figure.set_layout_engine("none")
    inside, points = axes.get_window_extent(), list(zip(*_points(rows), strict=True))
    places = axes.transData.transform(points)
    taken = [Bbox.from_extents(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in places]
    labels = []
    for row, at in zip(rows, points, strict=True):
        label = axes.annotate(
            row["label"],
            at,
            SIDES[0][:2],
            textcoords="offset points",
            color=colours[row["series"]],
            fontsize=PHONE - 1,
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
            zorder=4,
        )
        for right, up, across, down in SIDES:
            label.set_position((right, up))
            label.set(ha=across, va=down)
            box = label.get_window_extent()
            within = inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)
            if within and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        labels.append(label)
    return labels
