"""Verbs that train: slim, adapt, finetune, distill."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import errors
from ..files.locks import locked
from ..pruning.slim_config import SlimConfig
from ..training.config import AdaptConfig, DistillConfig, FinetuneConfig
from . import console
from .app import verb
from .options import Bidirectional, Dtype, Force, Json, Model, Quiet, Run
from .settings import options_of

Source = Annotated[
    Path, typer.Argument(help="Model folder, or run folder with the plan to carry out first.")
]
Out = Annotated[Path, typer.Argument(help="Model folder to write.")]
Base = Annotated[
    str | None, typer.Option("--model", help="The base, if it is no longer where the run says.")
]
Train = Annotated[
    str,
    typer.Option(
        help="Training examples: a .jsonl file with query, pos and neg (and perhaps pos_scores, "
        "neg_scores, prompt), a BEIR folder with train qrels, a datasets name."
    ),
]
Negatives = Annotated[int, typer.Option(min=0, help="Hard negatives an example (the paper: 7).")]


@verb("slim")
@options_of(SlimConfig, left_out={"epochs": "the gates train for --steps"})
def slim_command(
    run: Run,
    train: Train,
    config: Any,
    negatives: Negatives = 7,
    model: Base = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the width of every layer to this PNG ([plot] extra)."),
    ] = None,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Choose the MLP neurons that stay by gradients of examples, and refit what is left.

    As `effir reconstruct`, with tokens weighted by what a loss feels of their MLPs. --paper
    trains gates instead (equations 7, 8): killed at any moment, the same command resumes from its
    last checkpoint, and `effir reconstruct` refits what they chose. Afterwards `effir export`
    writes the model. Needs the [train] extra.

    effir slim run --train mined.jsonl --sparsity 0.3
    """
    from ..encoder.encoder import transformer_model
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source
    from ..evaluation.plots import width_plot
    from ..model.identity import BaseIdentity
    from ..pruning.slim import slim
    from ..training.launch import is_main_process, local_device
    from ..training.stage import Stage, data_record, training_data
    from .run_folder import SLIM_FOLDER, plan_to_slim

    errors.quiet_libraries()
    progress, is_main = not (quiet or as_json), is_main_process()
    with locked(run) if is_main else nullcontext():
        plan, is_slimmed = plan_to_slim(run, force)
        name = base_source(model, plan.base.name, run)
        encoder = load(name, dtype=dtype, device=local_device())
        plan.base.check_same(BaseIdentity.of(transformer_model(encoder), name))
        data = training_data(encoder, train, config, negatives=negatives, show_progress=progress)
        stage = Stage(name="slim", config=config, data=data_record(data))
        if not is_slimmed:
            plan = slim(
                encoder,
                data,
                config,
                run / SLIM_FOLDER,
                plan=plan,
                force=force,
                show_progress=progress and is_main,
            )
            if is_main:
                plan.save(run)
        elif not stage.is_among(plan.made_by):
            raise ValueError(
                f"{run} was slimmed with other settings or examples; choose another run folder, or "
                "slim again (--force)"
            )
    if plot is not None and is_main:
        width_plot(plan, plot)
    console.show_plan(plan, None, as_json, quiet)


@verb("adapt")
@options_of(AdaptConfig, left_out={"mini_batch_size": "it is for the contrastive loss alone"})
def adapt_command(
    model: Model,
    out: Out,
    config: Any,
    texts: Annotated[
        str | None,
        typer.Option(
            help="Texts of two sentences and more: a .jsonl or .txt file, a BEIR folder (its "
            "corpus), a datasets name. Default: the 256 texts shipped with the package, which are "
            "few."
        ),
    ] = None,
    text_count: Annotated[
        int | None, typer.Option(min=1, help="How many of them to draw. Default: all.")
    ] = None,
    bidirectional: Bidirectional = False,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a language model ready for retrieval by texts alone, before it sees a pair (LLaRA).

    The embedding of a sentence learns to predict, through the language-modelling head, the tokens
    of the sentence and of the one after it. Killed at any moment, the same command resumes from its
    last checkpoint, in OUT.training. Needs the [train] extra.

    effir adapt MODEL adapted --texts corpus.jsonl
    """
    from ..data.calibration import load_calibration
    from ..encoder.loading import load
    from ..encoder.sources import find_architecture
    from ..training.adapt import adapt
    from ..training.launch import local_device

    errors.quiet_libraries()
    progress = not (quiet or as_json)
    find_architecture(model)
    chosen = load_calibration(texts, limit=text_count, show_progress=progress)
    encoder = load(model, dtype=dtype, device=local_device(), bidirectional=bidirectional)
    adapt(encoder, chosen, config, out, force=force, show_progress=progress)
    console.show_trained(out, as_json, quiet)


@verb("finetune")
@options_of(FinetuneConfig)
def finetune_command(
    context: typer.Context,
    source: Source,
    out: Out,
    train: Train,
    config: Any,
    negatives: Negatives = 7,
    model: Base = None,
    bidirectional: Bidirectional = False,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a pruned model for retrieval: contrastive loss, and a teacher's scores (equation 2).

    Killed at any moment, the same command resumes from its last checkpoint, in OUT.training. On
    several GPUs: accelerate launch -m effir_integrations.cli finetune ... Needs the [train] extra.

    effir finetune pruned healed --train mined.jsonl
    """
    from ..data.training_rows import has_scores
    from ..training.finetune import finetune
    from ..training.stage import training_data
    from .train_sources import load_source

    progress = not (quiet or as_json)
    asked = str(context.get_parameter_source("teacher_weight")).endswith("COMMANDLINE")
    scored = config.teacher_weight > 0 and (asked or has_scores(train))
    encoder, history = load_source(source, model, dtype, bidirectional=bidirectional)
    data = training_data(
        encoder, train, config, negatives=negatives, scored=scored, show_progress=progress
    )
    finetune(encoder, data, config, out, history=history, force=force, show_progress=progress)
    console.show_trained(out, as_json, quiet)


@verb("distill")
@options_of(DistillConfig, left_out={"mini_batch_size": "it is for the contrastive loss alone"})
def distill_command(
    source: Source,
    out: Out,
    config: Any,
    teacher: Annotated[
        str | None,
        typer.Option(help="Model to follow. Default: the base that SOURCE was pruned from."),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="Texts to follow it on: a .jsonl or .txt file, a BEIR folder (its corpus), a "
            "datasets name. Default: none where --queries is given, else the 256 texts shipped "
            "with the package, which are few."
        ),
    ] = None,
    text_count: Annotated[
        int | None, typer.Option(min=1, help="How many of them to draw. Default: all.")
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            help="Texts read with the model's query prompt: a .jsonl or .txt file. Alone, they "
            "train a query encoder for an index that is kept."
        ),
    ] = None,
    model: Base = None,
    bidirectional: Bidirectional = False,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a pruned model to give the full model's vectors; texts are enough, no labels.

    Killed at any moment, the same command resumes from its last checkpoint, in OUT.training. Needs
    the [train] extra.

    effir distill pruned healed --texts corpus.jsonl
    """
    from ..encoder.encoder import transformer_model
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source, check_recorded
    from ..encoder.space_record import space_made_of
    from ..training.distill import distill
    from ..training.launch import local_device
    from .train_sources import load_source, load_texts

    progress = not (quiet or as_json)
    encoder, history = load_source(source, model, dtype, bidirectional=bidirectional)
    name = base_source(teacher or model, history["base"], source, option="--teacher")
    guide = load(name, device=local_device())
    if teacher is None:
        ours, theirs = transformer_model(encoder), transformer_model(guide)
        check_recorded(theirs, history["fingerprint"], ours.dtype, source, "--teacher")
    chosen = load_texts(encoder, texts, text_count, queries, progress)
    distill(
        encoder,
        guide,
        chosen,
        config,
        out,
        history=history,
        space=space_made_of(name),
        force=force,
        show_progress=progress,
    )
    console.show_trained(out, as_json, quiet)
