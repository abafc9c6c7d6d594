"""The verb that finds what to remove for a target: plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import errors
from ..pruning.plan_config import PlanConfig
from . import console
from .app import verb
from .options import Force, Json, Model, Quiet
from .settings import options_of

if TYPE_CHECKING:
    from ..pruning.search_plans import Planned


@verb("plan")
@options_of(PlanConfig, names={"keep_parameters": "params"})
def plan_command(
    model: Model,
    config: Any,
    texts: Annotated[
        str | None,
        typer.Option(
            help="Your corpus, on which quality is measured: a BEIR folder, a .jsonl or a .txt "
            "file. Default: no corpus; then quality is not measured."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Run folder for plan.json, costs.json and points.json.")
    ] = Path("effir-run"),
    point: Annotated[
        int | None,
        typer.Option(min=0, help="Take this point of the run folder's table as its plan instead."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw quality against time to this PNG ([plot] extra)."),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find what to remove for a share of quality or time, parameters or megabytes.

    Times are measured on this machine. Then: effir export RUN OUT.

    effir plan MODEL --latency 0.5 --texts corpus.jsonl

    effir plan MODEL --keep-quality 0.99 --texts corpus.jsonl --role query

    effir plan MODEL --point 3
    """
    from ..evaluation.plots import check_png
    from ..pruning.plan import plan, take_point
    from ..pruning.points_table import points_table

    errors.quiet_libraries()
    progress = not (quiet or as_json)
    if plot is not None:
        check_png(plot)
    if point is not None:
        if config != PlanConfig() or texts is not None:
            raise ValueError("--point takes a plan that was found; leave targets and texts out")
        made = take_point(model, out, point, show_progress=progress)
        console.show_plan(made, None, as_json, quiet)
        return
    found = plan(model, out, config, texts=texts, force=force, show_progress=progress)
    if plot is not None:
        _draw(found, plot)
    console.show(found.to_json() if as_json else points_table(found), as_json, quiet)


def _draw(found: Planned, path: Path) -> None:
    from ..evaluation.plots import front_plot

    kept = [x for x in found.points if x.quality is not None]
    if not kept:
        raise ValueError(f"{path}: there is no quality to draw; give a corpus (--texts)")
    points = [(x.latency, x.quality or 0.0, x.measured) for x in kept]
    name = Path(found.plan.base.name).name
    front_plot(points, kept.index(found.points[found.chosen]), f"Plans for {name}", path)
