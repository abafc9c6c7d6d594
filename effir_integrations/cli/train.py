"""Verbs that train: slim, finetune, distill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import plain_errors
from . import console
from .app import app
from .options import Debug, Dtype, Force, Json, MaxLength, MultipleOf, Quiet, Run

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
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps; instead of --epochs.")]
Epochs = Annotated[float, typer.Option(help="Passes over the examples.")]
Batch = Annotated[int, typer.Option(min=1, help="Examples a step, over all processes together.")]
MiniBatch = Annotated[
    int | None,
    typer.Option(min=1, help="Texts in memory at a time (gradient caching), for large batches."),
]
LearningRate = Annotated[float, typer.Option(help="Highest learning rate.")]
WeightDecay = Annotated[float, typer.Option(help="Of AdamW.")]
Temperature = Annotated[float, typer.Option(help="Of the contrastive loss (the paper: 0.02).")]
SimilarLengths = Annotated[
    bool, typer.Option("--similar-lengths", help="Batches of texts of like length: less padding.")
]
Precision = Annotated[str, typer.Option(help="auto (bf16 where the hardware has it), bf16, fp32.")]
Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Less memory, about a third slower.")
]
Seed = Annotated[int, typer.Option(help="Of the order of examples and of new weights.")]
SaveSteps = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
ReportTo = Annotated[
    str, typer.Option(help="A logger to report to, such as tensorboard or wandb, if installed.")
]
Trains = Annotated[
    str, typer.Option(help="lora (an adapter on every projection, merged at the end) or all.")
]
Rank = Annotated[int, typer.Option(min=1, help="Of the adapter (the paper: 32).")]
Alpha = Annotated[float, typer.Option(help="Of the adapter (the paper: 64).")]


@app.command(name="slim")
def slim_command(
    run: Run,
    train: Train,
    sparsity: Annotated[
        float, typer.Option(help="Share of the neurons of the MLPs left that goes.")
    ] = 0.3,
    steps: Steps = 500,
    batch_size: Batch = 32,
    mini_batch_size: MiniBatch = None,
    negatives: Negatives = 7,
    gate_learning_rate: Annotated[float, typer.Option(help="Of the gates.")] = 1e-2,
    gate_weight: Annotated[
        float, typer.Option(help="lambda of eq. 8: how much the number of open gates counts.")
    ] = 1e-8,
    beta: Annotated[float, typer.Option(help="Of eq. 8.")] = 5.0,
    temperature: Temperature = 0.02,
    train_base: Annotated[
        bool, typer.Option("--train-base", help="Train the weights as well as the gates.")
    ] = False,
    learning_rate: LearningRate = 1e-5,
    weight_decay: WeightDecay = 0.0,
    multiple_of: MultipleOf = 64,
    min_width: Annotated[int, typer.Option(min=1, help="No layer goes below it.")] = 1,
    max_length: MaxLength = None,
    precision: Precision = "auto",
    gradient_checkpointing: Checkpointing = False,
    seed: Seed = 0,
    save_steps: SaveSteps = 100,
    report_to: ReportTo = "none",
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

    Killed at any moment, the same command goes on from its last checkpoint. Afterwards `effir
    export` writes the model, or `effir reconstruct` first refits what is left. Needs the [train]
    extra.

    effir slim run --train mined.jsonl --sparsity 0.3
    """
    with plain_errors(debug):
        from ..pruning.config import SlimConfig
        from .train_commands import run_slim

        config = SlimConfig(
            sparsity=sparsity,
            steps=steps,
            batch_size=batch_size,
            mini_batch_size=mini_batch_size,
            gate_learning_rate=gate_learning_rate,
            gate_weight=gate_weight,
            beta=beta,
            temperature=temperature,
            train_base=train_base,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            multiple_of=multiple_of,
            min_width=min_width,
            max_length=max_length,
            precision=precision,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            save_steps=save_steps,
            report_to=report_to,
        )
        plan = run_slim(
            run,
            train,
            config,
            negatives=negatives,
            model=model,
            dtype=dtype,
            plot=plot,
            force=force,
            show_progress=not (quiet or as_json),
        )
        console.show_plan(plan, None, as_json, quiet)


@app.command(name="finetune")
def finetune_command(
    source: Source,
    out: Out,
    train: Train,
    negatives: Negatives = 7,
    teacher_weight: Annotated[
        float | None,
        typer.Option(
            help="Of the divergence from the examples' scores; 0 ignores them. Default: 1 where "
            "the examples carry scores (see effir score)."
        ),
    ] = None,
    teacher_temperature: Annotated[float, typer.Option(help="Divides the scores.")] = 1.0,
    temperature: Temperature = 0.02,
    trains: Trains = "lora",
    rank: Rank = 32,
    alpha: Alpha = 64.0,
    learning_rate: LearningRate = 1e-4,
    weight_decay: WeightDecay = 0.0,
    epochs: Epochs = 1.0,
    steps: Steps = None,
    batch_size: Batch = 32,
    mini_batch_size: MiniBatch = None,
    similar_lengths: SimilarLengths = False,
    max_length: MaxLength = None,
    precision: Precision = "auto",
    gradient_checkpointing: Checkpointing = False,
    seed: Seed = 0,
    save_steps: SaveSteps = 100,
    report_to: ReportTo = "none",
    model: Base = None,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a pruned model for retrieval: contrastive loss, and a teacher's scores (equation 2).

    Killed at any moment, the same command goes on from its last checkpoint, in OUT.training. On
    several GPUs: accelerate launch -m effir_integrations.cli finetune ... Needs the [train] extra.

    effir finetune pruned healed --train mined.jsonl
    """
    with plain_errors(debug):
        from ..training.config import FinetuneConfig
        from .train_commands import run_finetune

        config = FinetuneConfig(
            teacher_weight=1.0 if teacher_weight is None else teacher_weight,
            teacher_temperature=teacher_temperature,
            temperature=temperature,
            trains=trains,
            rank=rank,
            alpha=alpha,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            mini_batch_size=mini_batch_size,
            similar_lengths=similar_lengths,
            max_length=max_length,
            precision=precision,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            save_steps=save_steps,
            report_to=report_to,
        )
        history = run_finetune(
            source,
            out,
            train,
            config,
            negatives=negatives,
            needs_scores=bool(teacher_weight),
            model=model,
            dtype=dtype,
            force=force,
            show_progress=not (quiet or as_json),
        )
        console.show_trained(history, as_json, quiet, out)


@app.command(name="distill")
def distill_command(
    source: Source,
    out: Out,
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
    target: Annotated[
        str,
        typer.Option(
            help="vectors (stays in the teacher's vector space: its index can be kept) or "
            "similarities (of the texts of a batch; the teacher may have another dimension)."
        ),
    ] = "vectors",
    trains: Trains = "all",
    rank: Rank = 32,
    alpha: Alpha = 64.0,
    learning_rate: LearningRate = 3e-4,
    weight_decay: WeightDecay = 0.0,
    epochs: Epochs = 1.0,
    steps: Steps = None,
    batch_size: Batch = 32,
    similar_lengths: SimilarLengths = False,
    max_length: MaxLength = None,
    precision: Precision = "auto",
    gradient_checkpointing: Checkpointing = False,
    seed: Seed = 0,
    save_steps: SaveSteps = 100,
    report_to: ReportTo = "none",
    model: Base = None,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a pruned model to give the full model's vectors; texts are enough, no labels.

    Killed at any moment, the same command goes on from its last checkpoint, in OUT.training. Needs
    the [train] extra.

    effir distill pruned healed --texts corpus.jsonl
    """
    with plain_errors(debug):
        from ..training.config import DistillConfig
        from .train_commands import run_distill

        config = DistillConfig(
            target=target,
            trains=trains,
            rank=rank,
            alpha=alpha,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            similar_lengths=similar_lengths,
            max_length=max_length,
            precision=precision,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            save_steps=save_steps,
            report_to=report_to,
        )
        history = run_distill(
            source,
            out,
            config,
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
