"""Figures of the method, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import import_extra
from ..files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..model.plan import ImportanceReport, PruningPlan

_PANELS = {"mlp": "MLP", "attention": "Attention", "block": "Block"}
_KEPT, _DROPPED, _NEWLY, _ABSENT, _BLANK = range(5)
_COLOURS = ("#e9edf2", "#9dbbe0", "#1d4f91", "#d9d4cb", "#ffffff")
_LEGEND = {
    _KEPT: "kept",
    _DROPPED: "dropped",
    _NEWLY: "dropped at this step",
    _ABSENT: "not in the model",
}
_INK = "#2f353d"


def drop_order_heatmap(report: ImportanceReport, path: Path) -> Path:
    """Draw which layers go as more and more are dropped, least important first (eq. 4, 5).

    One panel each for MLP, attention and block: layer index across, number dropped down.

    Args:
        report: What `analyze` measured.
        path: A file name that ends in .png; its folder is made.

    Returns:
        `path`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `path` does not end in .png.
    """
    check_png(path)
    side = min(max(2.4, 0.14 * len(report.block)), 6.0)  # inches, of one panel
    figure = new_figure(3 * side + 1.3, side + 1.5)
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (kind, title) in zip(panels, _PANELS.items(), strict=True):
        _draw(axes, drop_order_grid(report, kind), title)
    panels[0].set_ylabel("number dropped", color=_INK)
    name = Path(report.base.name).name or report.base.family
    figure.suptitle(f"Drop order, {name}", color=_INK, fontsize=12)
    _add_legend(figure, absent=None in (*report.mlp, *report.attention))
    return write_png(figure, path)


def width_plot(plan: PruningPlan, path: Path) -> Path:
    """Draw how many MLP neurons every layer keeps, against those of the base (figure 2b).

    Args:
        plan: What `slim` or `reconstruct` chose.
        path: A file name that ends in .png; its folder is made.

    Returns:
        `path`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `path` does not end in .png.
    """
    check_png(path)
    layers = np.arange(plan.base.layers)
    figure = new_figure(min(max(4.0, 0.25 * len(layers)), 12.0), 3.2)
    axes = figure.subplots()
    axes.bar(layers, plan.base.mlp_widths, color=_COLOURS[_KEPT], label="base")
    axes.bar(layers, plan.mlp_widths, color=_COLOURS[_NEWLY], label="kept")
    axes.set_xlabel("layer", color=_INK)
    axes.set_ylabel("MLP neurons", color=_INK)
    name = Path(plan.base.name).name or plan.base.family
    _finish(figure, axes, f"MLP widths, {name}")
    return write_png(figure, path)


def front_plot(
    points: Sequence[tuple[float, float, bool]], chosen: int, title: str, path: Path
) -> Path:
    """Draw what plans keep against the time that they take.

    Args:
        points: Share of time, share of quality, and whether both were measured, of each plan.
        chosen: Place of the plan that was chosen.
        title: What was planned for.
        path: A file name that ends in .png; its folder is made.

    Returns:
        `path`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `path` does not end in .png.
    """
    check_png(path)
    figure = new_figure(5.2, 3.6)
    axes = figure.subplots()
    for name, state, size in (("measured", _NEWLY, 36), ("estimated", _DROPPED, 20)):
        shown = [x for x in points if x[2] == (name == "measured")]
        times, kept = [x[0] for x in shown], [x[1] for x in shown]
        axes.scatter(times, kept, s=size, color=_COLOURS[state], label=name)
    time, quality, _ = points[chosen]
    axes.scatter([time], [quality], s=130, edgecolors=_INK, facecolors="none", label="chosen")
    axes.set_xlabel("time of a text, share of the full model's", color=_INK)
    axes.set_ylabel("quality kept", color=_INK)
    _finish(figure, axes, title)
    return write_png(figure, path)


def overlap_plot(curves: Mapping[str, Sequence[float]], title: str, path: Path) -> Path:
    """Draw how many queries lose how much: overlaps in ascending order.

    Args:
        curves: Name -> overlap of each query, from 0 to 1.
        title: What is compared.
        path: A file name that ends in .png; its folder is made.

    Returns:
        `path`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `path` does not end in .png.
    """
    check_png(path)
    figure = new_figure(5.2, 3.6)
    axes = figure.subplots()
    for (name, values), state in zip(curves.items(), (_NEWLY, _DROPPED), strict=False):
        queries = 100 * (np.arange(len(values)) + 0.5) / len(values)
        axes.step(queries, np.sort(values), where="mid", color=_COLOURS[state], label=name)
    axes.set_xlabel("queries, those that change most first (%)", color=_INK)
    axes.set_ylabel("share of the 10 best that stays", color=_INK)
    axes.set_ylim(-0.02, 1.02)
    _finish(figure, axes, title)
    return write_png(figure, path)


def _finish(figure: Figure, axes: Axes, title: str) -> None:
    axes.set_title(title, color=_INK, fontsize=12)
    axes.tick_params(length=0, colors=_INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def drop_order_grid(report: ImportanceReport, kind: str) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return the state of every layer for every number dropped, (number - 1, layer).

    States: 0 kept, 1 dropped, 2 dropped at this step, 3 not in the model; rows for more than the
    model has are 4 throughout.
    """
    order = report.order(kind)
    layers = len(report.block)
    grid = np.full((layers, layers), _BLANK, dtype=np.int8)
    for row, newest in enumerate(order):
        grid[row] = _ABSENT
        grid[row, order] = _KEPT
        grid[row, order[:row]] = _DROPPED
        grid[row, newest] = _NEWLY
    return grid


def check_png(path: Path) -> None:
    """Refuse another file name than that of a PNG.

    Raises:
        ValueError: It ends otherwise.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} does not end in .png, and a PNG is what is drawn; rename it")


def write_png(figure: Figure, path: Path, *, dpi: int = 160) -> Path:
    """Write a figure under its name once it is whole, and return `path`."""
    with new_file(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, facecolor="white")
    return path


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches that has nothing to do with pyplot's state.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import_extra("matplotlib", "plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(axes: Axes, grid: np.ndarray[Any, np.dtype[np.int8]], title: str) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

    layers = len(grid)
    axes.pcolormesh(
        np.arange(layers + 1) - 0.5,
        np.arange(layers + 1) + 0.5,
        grid,
        cmap=ListedColormap(_COLOURS),
        vmin=0,
        vmax=len(_COLOURS) - 1,
        edgecolors="white",
        linewidth=min(0.8, 16 / layers),
    )
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_title(title, color=_INK, fontsize=11)
    axes.set_xlabel("layer", color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 5, 10]))
    first = 1 if layers <= 8 else layers // 8 if layers % 8 == 0 else max(2, layers // 6)
    axes.set_yticks([1, *range(first, layers + 1, first)] if first > 1 else range(1, layers + 1))
    axes.tick_params(length=0, colors=_INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _add_legend(figure: Figure, *, absent: bool) -> None:
    from matplotlib.patches import Patch

    shown = [state for state in _LEGEND if absent or state != _ABSENT]
    patches = [Patch(facecolor=_COLOURS[state], label=_LEGEND[state]) for state in shown]
    legend = figure.legend(
        handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_color(_INK)
