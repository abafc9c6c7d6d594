"""The figures of the claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from effir_integrations.evaluation.plots import new_figure, write_png

COLOURS = ("#1d4f91", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#2f353d")
DPI = 110
"""Of figures that lie in the repository, at most 60 kB each."""

Points = Mapping[str, Sequence[tuple[float, float]]]
"""Name of a line -> its points, (x, y)."""


def lines(panels: Mapping[str, Points], path: Path, *, across: str, up: str) -> Path:
    """Draw lines through marked points, one panel beside the other, on one scale upwards.

    Args:
        panels: Title -> lines.
        path: A PNG.
        across: Label below.
        up: Label at the side.
    """

    def draw(axes: Any, series: Points) -> None:
        for place, (name, points) in enumerate(series.items()):
            across_values, up_values = zip(*points, strict=True)
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(across_values, up_values, "o-", label=name, color=colour, markersize=4)

    return _side_by_side(panels, draw, path, across=across, up=up)


def bars(panels: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path, *, up: str) -> Path:
    """Draw groups of bars.

    Args:
        panels: Title -> group -> name of a bar -> height; all groups have the same bars.
        path: A PNG.
        up: Label at the side.
    """

    def draw(axes: Any, groups: Mapping[str, Mapping[str, float]]) -> None:
        names = list(next(iter(groups.values())))
        width = 0.8 / len(names)
        for place, name in enumerate(names):
            at = [group + (place - (len(names) - 1) / 2) * width for group in range(len(groups))]
            heights = [values[name] for values in groups.values()]
            axes.bar(at, heights, width, label=name, color=COLOURS[place % len(COLOURS)])
        axes.set_xticks(range(len(groups)), list(groups), fontsize=8)

    return _side_by_side(panels, draw, path, across="", up=up)


def _side_by_side(
    panels: Mapping[str, Any], draw: Callable[[Any, Any], None], path: Path, *, across: str, up: str
) -> Path:
    """Draw panels of one scale upwards, with one legend below all of them."""
    figure = new_figure(3.5 * len(panels) + 0.8, 3.4)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for each, (title, panel) in zip(axes, panels.items(), strict=True):
        draw(each, panel)
        _finish(each, title, across)
    axes[0].set_ylabel(up)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return write_png(figure, path, dpi=DPI)


def scatter(points: Mapping[str, tuple[float, float]], path: Path, *, across: str, up: str) -> Path:
    """Draw named points; those further up at the left are better."""
    figure = new_figure(6.4, 4.8)
    axes = figure.subplots()
    for place, (name, (at, height)) in enumerate(points.items()):
        colour, marker = COLOURS[place % len(COLOURS)], "os^D"[place // len(COLOURS) % 4]
        axes.plot([at], [height], marker, label=name, color=colour, markersize=7)
    _finish(axes, "", across)
    axes.set_ylabel(up)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return write_png(figure, path, dpi=DPI)


def levels(values: Mapping[str, float], path: Path, *, across: str) -> Path:
    """Draw one bar to the right for each name, the first one on top."""
    figure = new_figure(7.2, 0.4 * len(values) + 0.9)
    axes = figure.subplots()
    axes.barh(list(values), list(values.values()), 0.6, color=COLOURS[0])
    axes.invert_yaxis()
    _finish(axes, "", across)
    axes.grid(visible=False)
    return write_png(figure, path, dpi=DPI)


def _finish(axes: Any, title: str, across: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(across)
    axes.grid(axis="y", color="#e9edf2")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
