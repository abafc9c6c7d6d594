"""What a run folder holds already: what was done is not done again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..encoder.folder import identify
from ..model.plan import IMPORTANCE_FILE, PLAN_FILE, ImportanceReport, PruningPlan

if TYPE_CHECKING:
    from ..data.calibration import Calibration

SLIM_FOLDER = "slim"


def report_there(out: Path, model: str, calibration: Calibration) -> ImportanceReport | None:
    """Return the report of a run folder that has one.

    Raises:
        ValueError: It is of another model or other texts.
    """
    if not (out / IMPORTANCE_FILE).is_file():
        return None
    report = ImportanceReport.load(out)
    before = (report.base.name, report.calibration.get("sha256"))
    same = before == (model, calibration.sha256)
    if not same or report.base.fingerprint != identify(model).fingerprint:
        raise ValueError(
            f"{out} holds the importance of {report.base.name} on "
            f"{report.calibration.get('source')}; choose another --out, or repeat (--force)"
        )
    return report


def check_no_plan(out: Path, force: bool) -> None:
    """Refuse to write where a plan is.

    Raises:
        ValueError: There is one, and `force` was not given.
    """
    if (out / PLAN_FILE).is_file() and not force:
        raise ValueError(
            f"{out} holds a plan already; choose another --out, or replace it (--force)"
        )


def slimmed_plan(run: Path) -> PruningPlan | None:
    """Return the plan of a run folder if gates that `slim` trained were its last stage."""
    if not (run / PLAN_FILE).is_file():
        return None
    stages = PruningPlan.load(run, tensors=False).made_by
    if not stages or stages[-1].get("stage") != "slim":
        return None
    plan = PruningPlan.load(run)
    return None if plan.outputs else plan  # without gates, slimming refits by itself


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


def plan_to_slim(run: Path, force: bool) -> tuple[PruningPlan, bool]:
    """Return the plan of a run folder, and whether it was slimmed already.

    Raises:
        FileNotFoundError: The run folder holds neither a plan nor a report.
        ValueError: The plan has pruned neurons and was not slimmed, or `force` would remove its
            base.
    """
    from ..encoder.recorded_base import recorded_folder
    from ..pruning.slim import BASE_FOLDER

    if (run / PLAN_FILE).is_file():
        there = PruningPlan.load(run, tensors=not force)
        before = recorded_folder(there.base.name, run) if force else None
        if before and before.resolve() == (run / SLIM_FOLDER / BASE_FOLDER).resolve():
            raise ValueError(
                f"the plan in {run} is for the base that slimming trained, which --force would "
                "remove; choose another run folder"
            )
        if not force and any(x["stage"] == "slim" for x in there.made_by):
            return there, True
    return plan_so_far(run, force), False
