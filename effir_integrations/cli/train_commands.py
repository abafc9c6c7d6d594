"""The training verbs of the command line on names and paths."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..files.locks import locked
from ..model.plan import PLAN_FILE, PruningPlan
from .commands import plan_so_far

if TYPE_CHECKING:
    from ..data.calibration import Calibration
    from ..encoder.encoder import Encoder
    from ..pruning.config import SlimConfig
    from ..training.config import DistillConfig, FinetuneConfig

SLIM_FOLDER = "slim"


def run_slim(
    run: Path,
    source: str,
    config: SlimConfig,
    *,
    negatives: int,
    model: str | None,
    dtype: str,
    plot: Path | None,
    force: bool,
    show_progress: bool,
) -> PruningPlan:
    """Train gates on the base of a run folder and write the plan that follows from them.

    A run folder whose plan ends with this very stage is left as it is.

    Raises:
        ValueError: The plan has pruned neurons already.
        FileNotFoundError: The run folder holds neither a plan nor a report.
    """
    from ..encoder.encoder import transformer_model
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source, recorded_folder
    from ..evaluation.plots import width_plot
    from ..model.identity import BaseIdentity
    from ..pruning.slim import BASE_FOLDER, slim
    from ..training.launch import is_main_process, local_device
    from ..training.stage import Stage, data_record, training_data

    errors.quiet_libraries()
    with locked(run) if is_main_process() else nullcontext():
        there = None
        if (run / PLAN_FILE).is_file():
            there = PruningPlan.load(run, tensors=not force)
        trained = (run / SLIM_FOLDER / BASE_FOLDER).resolve()
        before = recorded_folder(there.base.name, run) if force and there else None
        if before is not None and before.resolve() == trained:
            raise ValueError(
                f"the plan in {run} is for the base that slimming trained, which --force would "
                "remove; choose another run folder"
            )
        there = None if force else there
        slimmed = there if there and any(x["stage"] == "slim" for x in there.made_by) else None
        plan = slimmed or plan_so_far(run, force)
        name = base_source(model, plan.base.name, run)
        encoder = load(name, dtype=dtype, device=local_device())
        plan.base.check_same(BaseIdentity.of(transformer_model(encoder), name))
        data = training_data(
            encoder, source, config, negatives=negatives, show_progress=show_progress
        )
        stage = Stage(name="slim", config=config, data=data_record(data))
        if slimmed is None or not stage.is_among(slimmed.made_by):
            if slimmed is not None:
                raise ValueError(
                    f"{run} was slimmed with other settings or examples; choose another run "
                    "folder, or slim again (--force)"
                )
            plan = slim(
                encoder,
                data,
                config,
                run / SLIM_FOLDER,
                plan=plan,
                force=force,
                show_progress=show_progress and is_main_process(),
            )
            if is_main_process():
                plan.save(run)
    if plot is not None and is_main_process():
        width_plot(plan, plot)
    return plan


def run_finetune(
    source: Path,
    out: Path,
    train: str,
    config: FinetuneConfig,
    *,
    negatives: int,
    needs_scores: bool,
    model: str | None,
    dtype: str,
    force: bool,
    show_progress: bool,
) -> dict[str, Any]:
    """Fine-tune a model folder, or the model that a run folder plans; return its history."""
    from ..data.training_rows import has_scores
    from ..training.finetune import finetune
    from ..training.stage import training_data

    scored = needs_scores or (config.teacher_weight > 0 and has_scores(train))
    encoder, history = _load_source(source, model, dtype)
    data = training_data(
        encoder, train, config, negatives=negatives, scored=scored, show_progress=show_progress
    )
    finetune(encoder, data, config, out, history=history, force=force, show_progress=show_progress)
    return _written(out)


def run_distill(
    source: Path,
    out: Path,
    config: DistillConfig,
    *,
    teacher: str | None,
    texts: str | None,
    text_count: int | None,
    queries: str | None,
    model: str | None,
    dtype: str,
    force: bool,
    show_progress: bool,
) -> dict[str, Any]:
    """Distill into a model folder, or the model that a run folder plans; return its history."""
    from ..encoder.encoder import transformer_model
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source, check_recorded
    from ..training.distill import distill
    from ..training.launch import local_device

    encoder, history = _load_source(source, model, dtype)
    name = base_source(teacher or model, history["base"], source, option="--teacher")
    guide = load(name, device=local_device())
    if teacher is None:
        ours, theirs = transformer_model(encoder), transformer_model(guide)
        check_recorded(theirs, history["fingerprint"], ours.dtype, source, "--teacher")
    chosen = _texts(encoder, texts, text_count, queries, show_progress)
    distill(
        encoder,
        guide,
        chosen,
        config,
        out,
        history=history,
        force=force,
        show_progress=show_progress,
    )
    return _written(out)


def _load_source(source: Path, model: str | None, dtype: str) -> tuple[Encoder, dict[str, Any]]:
    """Return the encoder to train and its history."""
    from ..encoder.encoder import transformer_model
    from ..encoder.history import history_at, history_of
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source
    from ..encoder.sources import find_architecture
    from ..model.apply import apply
    from ..training.launch import local_device

    errors.quiet_libraries()
    if not (source / PLAN_FILE).is_file():
        if model is not None:
            raise ValueError(f"{source} is a model, which needs no --model; leave it out")
        find_architecture(source)
        encoder = load(source, dtype=dtype, device=local_device())
        return encoder, history_at(encoder, source)
    plan = PruningPlan.load(source)
    name = base_source(model, plan.base.name, source)
    encoder = load(name, dtype=dtype, device=local_device())
    encoder[0].model = apply(transformer_model(encoder), plan)
    return encoder, history_of(plan)


def _texts(
    encoder: Encoder,
    documents: str | None,
    count: int | None,
    queries: str | None,
    show_progress: bool,
) -> Calibration:
    """Return documents and queries as they are encoded, prompts in front."""
    from ..data.calibration import load_calibration
    from ..encoder.encoder import role_prompt

    def prompted(texts: Calibration, role: str) -> list[str]:
        return [role_prompt(encoder, role) + text for text in texts.texts]

    chosen = load_calibration(documents, limit=count, show_progress=show_progress)
    texts, source = prompted(chosen, "document"), chosen.source
    if queries is not None:
        asked = load_calibration(queries, limit=None, show_progress=show_progress)
        texts += prompted(asked, "query")
        source = f"{source} and {asked.source}"
    made: Calibration = replace(load_calibration(texts, limit=None), source=source)
    return made


def _written(out: Path) -> dict[str, Any]:
    from ..encoder.history import HISTORY_FILE
    from ..files import read_json
    from ..training.launch import is_main_process, is_sharded

    writes = is_main_process() and not is_sharded()
    return read_json(out / HISTORY_FILE, "what training writes") if writes else {}
