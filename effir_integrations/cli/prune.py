"""Verbs that make a model smaller: analyze, drop, reconstruct, export, compress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import plain_errors
from . import console
from .app import app
from .options import (
    MODEL_HELP,
    Debug,
    DropAttention,
    DropBlock,
    DropMlp,
    Dtype,
    Force,
    Json,
    KeepNeurons,
    KeepParams,
    LastBlocks,
    MaxLength,
    Method,
    Model,
    MultipleOf,
    Quiet,
    Run,
    TextCount,
    Texts,
)


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
def drop_command(
    source: Annotated[
        str, typer.Argument(help="Run folder with importance.json, or a model for named layers.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder to write plan.json to. Default: the run folder itself."),
    ] = None,
    mlp: DropMlp = 0,
    attention: DropAttention = 0,
    block: DropBlock = 0,
    last_blocks: LastBlocks = 0,
    mlp_layers: Annotated[str, typer.Option(help="MLPs to drop by layer, e.g. 3,5-8.")] = "",
    attention_layers: Annotated[str, typer.Option(help="Attentions to drop by layer.")] = "",
    keep_params: KeepParams = None,
    params: Annotated[
        str, typer.Option(help="Drop MLPs until at most this many parameters stay, e.g. 3.6B.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, write nothing.")
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Plan which whole sublayers go (equations 4, 5) and show what that leaves."""
    with plain_errors(debug):
        from ..pruning.config import DropConfig
        from .commands import parse_count, parse_layers, run_drop

        config = DropConfig(
            mlp=mlp,
            attention=attention,
            block=block,
            last_blocks=last_blocks,
            mlp_layers=parse_layers(mlp_layers),
            attention_layers=parse_layers(attention_layers),
            keep_parameters=keep_params,
            parameters=parse_count(params),
        )
        plan, report = run_drop(source, out, config, dry_run=dry_run, force=force)
        console.show_plan(plan, report, as_json, quiet)


@app.command(name="reconstruct")
def reconstruct_command(
    run: Run,
    keep_neurons: Annotated[
        float | None,
        typer.Option(
            help="Share of the neurons of the MLPs left that stays. Default: the neurons that "
            "`effir slim` chose for this run, which are then only refitted, or else 0.5."
        ),
    ] = None,
    method: Method = "reconstruct",
    multiple_of: MultipleOf = 64,
    model: Annotated[
        str | None,
        typer.Option(help="The base, if it is no longer where the run folder says."),
    ] = None,
    calibration: Texts = None,
    texts: TextCount = 256,
    max_length: MaxLength = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prune MLP neurons and refit what is left by least squares, without a gradient step."""
    with plain_errors(debug):
        from .commands import run_reconstruct

        plan = run_reconstruct(
            run,
            {
                "keep_neurons": keep_neurons,
                "method": method,
                "multiple_of": multiple_of,
                "max_length": max_length,
            },
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
def compress_command(
    model: Annotated[
        str | None,
        typer.Argument(help=MODEL_HELP),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(help="Model folder to write."),
    ] = None,
    drop_mlp: DropMlp = 0,
    drop_attention: DropAttention = 0,
    drop_block: DropBlock = 0,
    last_blocks: LastBlocks = 0,
    keep_params: KeepParams = None,
    keep_neurons: KeepNeurons = None,
    method: Method = "reconstruct",
    multiple_of: MultipleOf = 64,
    calibration: Texts = None,
    texts: TextCount = 256,
    max_length: MaxLength = None,
    dtype: Dtype = "auto",
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with model, out and any of these settings, instead of them."),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compress a model in one go; with nothing named, half of the MLP neurons go."""
    with plain_errors(debug):
        from .commands import run_compress

        settings: dict[str, Any] = {
            "drop_mlp": drop_mlp,
            "drop_attention": drop_attention,
            "drop_block": drop_block,
            "last_blocks": last_blocks,
            "keep_parameters": keep_params,
            "keep_neurons": keep_neurons,
            "method": method,
            "multiple_of": multiple_of,
            "calibration": calibration,
            "calibration_texts": texts,
            "max_length": max_length,
            "dtype": dtype,
        }
        result, folder = run_compress(
            model, out, settings, config, force=force, show_progress=not (quiet or as_json)
        )
        console.show_plan(result.plan, result.report, as_json, quiet, folder)
