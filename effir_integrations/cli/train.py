"""Verbs that train: slim, finetune, distill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import plain_errors
from ..pruning.config import SlimConfig
from ..training.config import DistillConfig, FinetuneConfig
from . import console
from .app import app
from .options import Debug, Dtype, Force, Json, Quiet, Run
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


@app.command(name="slim")
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
    debug: Debug = False,
) -> None:
    """Choose the MLP neurons that stay by gates trained on retrieval (equations 7, 8).

    Killed at any moment, the same command resumes from its last checkpoint. Afterwards `effir
    export` writes the model, or `effir reconstruct` first refits what is left. Needs the [train]
    extra.

    effir slim run --train mined.jsonl --sparsity 0.3
    """
    with plain_errors(debug):
        settings = config()
        from .train_commands import run_slim

        plan = run_slim(
            run,
            train,
            settings,
            negatives=negatives,
            model=model,
            dtype=dtype,
            plot=plot,
            force=force,
            show_progress=not (quiet or as_json),
        )
        console.show_plan(plan, None, as_json, quiet)


@app.command(name="finetune")
@options_of(FinetuneConfig)
def finetune_command(
    context: typer.Context,
    source: Source,
    out: Out,
    train: Train,
    config: Any,
    negatives: Negatives = 7,
    model: Base = None,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a pruned model for retrieval: contrastive loss, and a teacher's scores (equation 2).

    Killed at any moment, the same command resumes from its last checkpoint, in OUT.training. On
    several GPUs: accelerate launch -m effir_integrations.cli finetune ... Needs the [train] extra.

    effir finetune pruned healed --train mined.jsonl
    """
    with plain_errors(debug):
        settings = config()
        from .train_commands import run_finetune

        weighted = context.get_parameter_source("teacher_weight")
        history = run_finetune(
            source,
            out,
            train,
            settings,
            negatives=negatives,
            needs_scores=str(weighted).endswith("COMMANDLINE") and settings.teacher_weight > 0,
            model=model,
            dtype=dtype,
            force=force,
            show_progress=not (quiet or as_json),
        )
        console.show_trained(history, as_json, quiet, out)


@app.command(name="distill")
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
            "datasets name. Default: the 256 texts shipped with the package, which are few."
        ),
    ] = None,
    text_count: Annotated[
        int | None, typer.Option(min=1, help="How many of them to draw. Default: all.")
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(help="More texts, read with the model's query prompt: a .jsonl or .txt file."),
    ] = None,
    model: Base = None,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a pruned model to give the full model's vectors; texts are enough, no labels.

    Killed at any moment, the same command resumes from its last checkpoint, in OUT.training. Needs
    the [train] extra.

    effir distill pruned healed --texts corpus.jsonl
    """
    with plain_errors(debug):
        settings = config()
        from .train_commands import run_distill

        history = run_distill(
            source,
            out,
            settings,
            teacher=teacher,
            texts=texts,
            text_count=text_count,
            queries=queries,
            model=model,
            dtype=dtype,
            force=force,
            show_progress=not (quiet or as_json),
        )
        console.show_trained(history, as_json, quiet, out)
