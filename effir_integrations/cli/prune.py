"""Verbs that make a model smaller: analyze, drop, reconstruct, export, compress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import plain_errors
from ..pruning.config import CompressConfig, DropConfig, ReconstructConfig
from . import console
from .app import app
from .options import (
    MODEL_HELP,
    Debug,
    Dtype,
    Force,
    Json,
    MaxLength,
    Model,
    Quiet,
    Run,
    TextCount,
    Texts,
)
from .parsers import parse_count, parse_layers
from .settings import options_of


@app.command(name="analyze")
def analyze_command(
    model: Model,
    out: Annotated[Path, typer.Option(help="Run folder to write importance.json to.")] = Path(
        "effir-run"
    ),
    calibration: Texts = None,
    texts: TextCount = 256,
    max_length: MaxLength = None,
    dtype: Dtype = "auto",
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the drop-order heat map to this PNG ([plot] extra)."),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure how important every attention, MLP and block is (equation 3)."""
    with plain_errors(debug):
        from .commands import run_analyze
        from .shown import importance_table

        report = run_analyze(
            model,
            out,
            calibration=calibration,
            texts=texts,
            max_length=max_length,
            dtype=dtype,
            plot=plot,
            force=force,
            show_progress=not (quiet or as_json),
        )
        console.show(report.to_json() if as_json else importance_table(report), as_json, quiet)


@app.command(name="drop")
@options_of(
    DropConfig,
    names={"keep_parameters": "keep-params", "parameters": "params"},
    parsers={
        "mlp_layers": parse_layers,
        "attention_layers": parse_layers,
        "parameters": parse_count,
    },
)
def drop_command(
    source: Annotated[
        str, typer.Argument(help="Run folder with importance.json, or a model for named layers.")
    ],
    config: Any,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder to write plan.json to. Default: the run folder itself."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, write nothing.")
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Plan which whole sublayers go (equations 4, 5) and show what that leaves.

    effir drop run --mlp 4

    effir drop run --mlp-layers 3,5-8 --params 3.6B
    """
    with plain_errors(debug):
        settings = config()
        from .commands import run_drop

        plan, report = run_drop(source, out, settings, dry_run=dry_run, force=force)
        console.show_plan(plan, report, as_json, quiet)


@app.command(name="reconstruct")
@options_of(ReconstructConfig)
def reconstruct_command(
    run: Run,
    config: Any,
    model: Annotated[
        str | None,
        typer.Option(help="The base, if it is no longer where the run folder says."),
    ] = None,
    calibration: Texts = None,
    texts: TextCount = 256,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prune MLP neurons and refit what is left by least squares, without a gradient step.

    Without --keep-neurons, and where `effir slim` has chosen none, half of the neurons stay.
    """
    with plain_errors(debug):
        settings = config()
        from .commands import run_reconstruct

        plan = run_reconstruct(
            run,
            settings,
            model=model,
            calibration=calibration,
            texts=texts,
            force=force,
            show_progress=not (quiet or as_json),
        )
        console.show_plan(plan, None, as_json, quiet)


@app.command(name="export")
def export_command(
    run: Run,
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    model: Annotated[
        str | None,
        typer.Option(help="The base, if it is no longer where the run folder says."),
    ] = None,
    from_disk: Annotated[
        bool,
        typer.Option("--from-disk", help="Rewrite the checkpoint tensor by tensor: little memory."),
    ] = False,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the planned model as an ordinary Sentence Transformers folder."""
    with plain_errors(debug):
        from .commands import run_export

        plan = run_export(
            run,
            out,
            model=model,
            from_disk=from_disk,
            dtype=dtype,
            force=force,
            show_progress=not (quiet or as_json),
        )
        console.show_plan(plan, None, as_json, quiet, out)


@app.command(name="compress")
@options_of(CompressConfig, names={"keep_parameters": "keep-params", "calibration_texts": "texts"})
def compress_command(
    config: Any,
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    out: Annotated[Path | None, typer.Argument(help="Model folder to write.")] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", help="YAML file with model, out and any of these settings, instead of them."
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compress a model in one go; with nothing named, half of the MLP neurons go."""
    with plain_errors(debug):
        settings = config()
        from .commands import run_compress

        result, folder = run_compress(
            model, out, settings, config_file, force=force, show_progress=not (quiet or as_json)
        )
        console.show_plan(result.plan, result.report, as_json, quiet, folder)
