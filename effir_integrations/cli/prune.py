"""Verbs that make a model smaller: analyze, drop, reconstruct, export, compress."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from .. import errors
from ..fields import blamed_on, check_fields
from ..files.locks import locked
from ..pruning.config import CompressConfig, DropConfig, ReconstructConfig
from . import console
from .app import verb
from .options import (
    MODEL_HELP,
    Dtype,
    Force,
    FromDisk,
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

Base = Annotated[
    str | None, typer.Option(help="The base, if it is no longer where the run folder says.")
]


@verb("analyze")
def analyze_command(
    model: Model,
    out: Annotated[Path, typer.Option(help="Run folder to write importance.json to.")] = Path(
        "effir-run"
    ),
    calibration: Texts = None,
    texts: TextCount = 256,
    max_length: MaxLength = None,
    from_disk: FromDisk = False,
    dtype: Dtype = "auto",
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the drop-order heat map to this PNG ([plot] extra)."),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure how important every attention, MLP and block is (equation 3)."""
    from ..data.calibration import load_calibration
    from ..encoder.loading import load
    from ..encoder.sources import find_architecture
    from ..model.tables import importance_table
    from ..pruning.analyze import analyze
    from .run_folder import report_there

    errors.quiet_libraries()
    progress = not (quiet or as_json)
    find_architecture(model)
    chosen = load_calibration(calibration, limit=texts)
    with locked(out):
        report = None if force else report_there(out, model, chosen)
        if report is None:
            encoder = load(model, dtype=dtype, from_disk=from_disk)
            report = analyze(encoder, chosen, max_length=max_length, show_progress=progress)
            report.save(out)
    if plot is not None:
        from ..evaluation.plots import drop_order_heatmap

        drop_order_heatmap(report, plot)
    console.show(report.to_json() if as_json else importance_table(report), as_json, quiet)


@verb("drop")
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
) -> None:
    """Plan which whole sublayers go (equations 4, 5) and show what that leaves.

    effir drop run --mlp 4

    effir drop run --mlp-layers 3,5-8 --params 3.6B
    """
    from ..model.plan import IMPORTANCE_FILE, ImportanceReport
    from ..pruning.drop import drop
    from .run_folder import check_no_plan

    report = None
    if (Path(source) / IMPORTANCE_FILE).is_file():
        report, out = ImportanceReport.load(Path(source)), out or Path(source)
    plan = drop(source if report is None else report.base, config, report)
    if not dry_run:
        if out is None:
            raise ValueError(
                f"{source} is a model, not a run folder; say where to write with --out"
            )
        with locked(out):
            check_no_plan(out, force)
            plan.save(out)
    console.show_plan(plan, report, as_json, quiet)


@verb("reconstruct")
@options_of(ReconstructConfig)
def reconstruct_command(
    run: Run,
    config: Any,
    model: Base = None,
    calibration: Texts = None,
    texts: TextCount = 256,
    from_disk: FromDisk = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Prune MLP neurons and refit what is left by least squares, without a gradient step.

    Without --keep-neurons, and where `effir slim --paper` has chosen none, half of them stay.
    """
    from ..data.calibration import load_calibration
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source
    from ..pruning.reconstruct import reconstruct
    from .run_folder import plan_so_far, slimmed_plan

    errors.quiet_libraries()
    progress = not (quiet or as_json)
    with locked(run):
        plan = slimmed_plan(run) if config.keep_neurons is None else None
        if plan is None:
            plan = plan_so_far(run, force)
            if config.keep_neurons is None:
                config = replace(config, keep_neurons=0.5)
        name = base_source(model, plan.base.name, run)
        chosen = load_calibration(calibration, limit=texts)
        encoder = load(name, from_disk=from_disk)
        plan = reconstruct(encoder, chosen, config, plan=plan, show_progress=progress)
        plan.save(run)
    console.show_plan(plan, None, as_json, quiet)


@verb("export")
def export_command(
    run: Run,
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    model: Base = None,
    from_disk: FromDisk = False,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the planned model as an ordinary Sentence Transformers folder."""
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source
    from ..encoder.space_record import space_made_of
    from ..files import claimed
    from ..model.peft_folder import with_bases
    from ..model.plan import PruningPlan
    from ..pruning.export import export, export_from_disk

    errors.quiet_libraries()
    plan = PruningPlan.load(run)
    name = base_source(model, plan.base.name, run)
    with claimed(out, force=force, sources=with_bases([name])):
        if from_disk:
            progress = not (quiet or as_json)
            export_from_disk(name, plan, out, force=force, show_progress=progress)
        else:
            space = space_made_of(name)
            export(load(name, dtype=dtype), plan, out, space=space, force=force)
    console.show_plan(plan, None, as_json, quiet, out)


@verb("compress")
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
) -> None:
    """Compress a model in one go; with nothing named, half of the MLP neurons go."""
    if config_file is not None:
        if model is not None or config != CompressConfig():
            raise ValueError("settings are given twice: in --config and on the command line")
        model, out, config = _read_settings(config_file)
    if model is None or out is None:
        raise ValueError("name the model and the folder to write: effir compress MODEL OUT")
    from ..pruning.compress import compress

    errors.quiet_libraries()
    result = compress(model, out, config, force=force, show_progress=not (quiet or as_json))
    console.show_plan(result.plan, result.report, as_json, quiet, out)


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What a YAML file names beside the settings."""

    model: str | None
    out: str | None

    def __post_init__(self) -> None:
        check_fields(self)


def _read_settings(path: Path) -> tuple[str | None, Path | None, CompressConfig]:
    """Return what a YAML file says: the model, the folder to write, and the settings."""
    settings = _read_yaml(path)
    with blamed_on(path):
        target = _Target(model=settings.pop("model", None), out=settings.pop("out", None))
        config = CompressConfig.from_mapping(settings)
    return target.model, Path(target.out) if target.out else None, config


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; expected a YAML file with model and out")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings; write lines such as `model: NAME`")
    return content
