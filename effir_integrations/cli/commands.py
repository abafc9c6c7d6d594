"""The verbs of the command line on run folders: what was done is not done again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .. import errors
from ..encoder.folder import identify
from ..fields import blamed_on, check_fields
from ..files.locks import locked
from ..model.peft_folder import with_bases
from ..model.plan import IMPORTANCE_FILE, PLAN_FILE, ImportanceReport, PruningPlan

if TYPE_CHECKING:
    from ..pruning.compress import Compressed
    from ..pruning.config import CompressConfig, DropConfig, ReconstructConfig


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What a YAML file names beside the settings."""

    model: str | None
    out: str | None

    def __post_init__(self) -> None:
        check_fields(self)


def run_analyze(
    model: str,
    out: Path,
    *,
    calibration: str | None,
    texts: int,
    max_length: int | None,
    dtype: str,
    plot: Path | None,
    force: bool,
    show_progress: bool,
) -> ImportanceReport:
    """Analyze a model by name into a run folder, or return the report that is there already.

    Raises:
        ValueError: The folder holds a report of another model or other texts.
    """
    from ..data.calibration import load_calibration
    from ..encoder.loading import load
    from ..encoder.sources import find_architecture
    from ..pruning.analyze import analyze

    errors.quiet_libraries()
    find_architecture(model)
    chosen = load_calibration(calibration, limit=texts)
    with locked(out):
        report = None
        if (out / IMPORTANCE_FILE).is_file() and not force:
            report = ImportanceReport.load(out)
            before = (report.base.name, report.calibration.get("sha256"))
            same = before == (model, chosen.sha256)
            if not same or report.base.fingerprint != identify(model).fingerprint:
                raise ValueError(
                    f"{out} holds the importance of {report.base.name} on "
                    f"{report.calibration.get('source')}; choose another --out, or repeat (--force)"
                )
        if report is None:
            encoder = load(model, dtype=dtype)
            report = analyze(encoder, chosen, max_length=max_length, show_progress=show_progress)
            report.save(out)
    if plot is not None:
        from ..evaluation.plots import drop_order_heatmap

        drop_order_heatmap(report, plot)
    return report


def run_drop(
    source: str, out: Path | None, config: DropConfig, *, dry_run: bool, force: bool
) -> tuple[PruningPlan, ImportanceReport | None]:
    """Plan on the report of a run folder, or on a model where layers are named.

    Raises:
        ValueError: No folder to write to, or it holds a plan already.
    """
    from ..pruning.drop import drop

    report = None
    if (Path(source) / IMPORTANCE_FILE).is_file():
        report, out = ImportanceReport.load(Path(source)), out or Path(source)
    plan = drop(source if report is None else report.base, config, report)
    if dry_run:
        return plan, report
    if out is None:
        raise ValueError(f"{source} is a model, not a run folder; say where to write with --out")
    with locked(out):
        _check_no_plan(out, force)
        plan.save(out)
    return plan, report


def _check_no_plan(out: Path, force: bool) -> None:
    if (out / PLAN_FILE).is_file() and not force:
        raise ValueError(
            f"{out} holds a plan already; choose another --out, or replace it (--force)"
        )


def run_reconstruct(
    run: Path,
    config: ReconstructConfig,
    *,
    model: str | None,
    calibration: str | None,
    texts: int,
    force: bool,
    show_progress: bool,
) -> PruningPlan:
    """Add pruned neurons and new output projections to the plan of a run folder.

    Where `keep_neurons` is None, neurons that `slim` chose stay, and half of them where it did not.

    Raises:
        ValueError: The plan has pruned neurons already.
        FileNotFoundError: The run folder holds neither a plan nor a report.
    """
    from ..data.calibration import load_calibration
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source
    from ..pruning.reconstruct import reconstruct

    errors.quiet_libraries()
    with locked(run):
        plan = slimmed_plan(run) if config.keep_neurons is None else None
        if plan is None:
            plan = plan_so_far(run, force)
            if config.keep_neurons is None:
                config = replace(config, keep_neurons=0.5)
        name = base_source(model, plan.base.name, run)
        chosen = load_calibration(calibration, limit=texts)
        made = reconstruct(load(name), chosen, config, plan=plan, show_progress=show_progress)
        made.save(run)
        return made


def slimmed_plan(run: Path) -> PruningPlan | None:
    """Return the plan of a run folder if `slim` was its last stage."""
    if not (run / PLAN_FILE).is_file():
        return None
    stages = PruningPlan.load(run, tensors=False).made_by
    return PruningPlan.load(run) if stages and stages[-1].get("stage") == "slim" else None


def plan_so_far(run: Path, force: bool) -> PruningPlan:
    """Return the dropped sublayers that a run folder plans, or an empty plan of its base.

    Raises:
        FileNotFoundError: The run folder holds neither a plan nor a report.
        ValueError: The plan has pruned neurons already and `force` was not given.
    """
    if not (run / PLAN_FILE).is_file():
        return PruningPlan(base=ImportanceReport.load(run).base)
    plan = PruningPlan.load(run, tensors=not force)
    if plan.neurons or plan.outputs:
        raise ValueError(
            f"the plan in {run} has pruned neurons already; export it, or prune again (--force)"
        )
    stages = tuple(entry for entry in plan.made_by if entry.get("stage") == "drop")
    return PruningPlan(
        base=plan.base,
        drop_mlp=plan.drop_mlp,
        drop_attention=plan.drop_attention,
        made_by=stages,
    )


def run_export(
    run: Path,
    out: Path,
    *,
    model: str | None,
    from_disk: bool,
    dtype: str,
    force: bool,
    show_progress: bool,
) -> PruningPlan:
    """Write the model that the plan of a run folder describes."""
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source
    from ..files import claimed
    from ..pruning.export import export, export_from_disk

    errors.quiet_libraries()
    plan = PruningPlan.load(run)
    name = base_source(model, plan.base.name, run)
    with claimed(out, force=force, sources=with_bases([name])):
        if from_disk:
            export_from_disk(name, plan, out, force=force, show_progress=show_progress)
        else:
            export(load(name, dtype=dtype), plan, out, force=force)
    return plan


def run_compress(
    model: str | None,
    out: Path | None,
    config: CompressConfig,
    config_file: Path | None,
    *,
    force: bool,
    show_progress: bool,
) -> tuple[Compressed, Path]:
    """Compress by command-line settings or by a YAML file.

    Raises:
        ValueError: Both or neither of the two say what to do, or the YAML will not do.
    """
    from ..pruning.compress import compress
    from ..pruning.config import CompressConfig

    if config_file is not None:
        if model is not None or config != CompressConfig():
            raise ValueError("settings are given twice: in --config and on the command line")
        settings = _read_yaml(config_file)
        with blamed_on(config_file):
            target = _Target(model=settings.pop("model", None), out=settings.pop("out", None))
            config = CompressConfig.from_mapping(settings)
        model, out = target.model, Path(target.out) if target.out else None
    if model is None or out is None:
        raise ValueError("name the model and the folder to write: effir compress MODEL OUT")
    errors.quiet_libraries()
    result = compress(model, out, config, force=force, show_progress=show_progress)
    return result, Path(out)


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
