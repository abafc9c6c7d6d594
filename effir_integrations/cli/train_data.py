"""Verbs that make training data: mine, score."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .. import errors
from . import console
from .app import verb
from .options import BatchSize, Dtype, Force, Json, MaxLength, Model, Quiet, Split

Out = Annotated[Path, typer.Argument(help="The .jsonl file to write.")]


@verb("mine")
def mine_command(
    model: Model,
    out: Out,
    data: Annotated[
        str,
        typer.Option(
            help="BEIR folder, or a .jsonl file or datasets name with query, pos and neg."
        ),
    ],
    negatives: Annotated[
        int, typer.Option(help="Negatives to look for, for each query. The paper trains with 7.")
    ] = 7,
    split: Split = "train",
    range_min: Annotated[
        int, typer.Option(help="Skip that many of the best: they may be relevant, but not judged.")
    ] = 0,
    range_max: Annotated[
        int,
        typer.Option(help="Candidates to look at; more find negatives for more queries."),
    ] = 1000,
    relative_margin: Annotated[
        float,
        typer.Option(
            help="A negative must be this share less similar than the worst positive; 0 lets all "
            "in that are no more similar."
        ),
    ] = 0.05,
    query_prompt_name: Annotated[
        str | None,
        typer.Option(help="The model's prompt for queries. Default: the one named query, if any."),
    ] = None,
    document_prompt_name: Annotated[
        str | None,
        typer.Option(help="Its prompt for passages. Default: the one named document, if any."),
    ] = None,
    faiss: Annotated[
        bool, typer.Option("--faiss", help="Search with FAISS ([eval] extra): for large corpora.")
    ] = False,
    fill: Annotated[
        bool,
        typer.Option(help="Draw what is missing of a query's negatives at random: all can train."),
    ] = True,
    max_length: MaxLength = None,
    dtype: Dtype = "auto",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find hard negatives: passages that MODEL ranks high for a query and nobody judged relevant.

    Writes one line a query with query, pos (all its positives) and neg (best first). Of a BEIR
    folder the whole corpus is ranked and only the judgements of --split are read; of a .jsonl file
    all its passages are ranked. Needs the [train] extra.

    effir mine MODEL mined.jsonl --data beir/scifact
    """
    from ..encoder.loading import load
    from ..encoder.sources import find_architecture
    from ..training.mine import check_mining, mine

    errors.quiet_libraries()
    check_mining(data, out, split=split, force=force)
    find_architecture(model)
    mined = mine(
        load(model, dtype=dtype, max_length=max_length),
        data,
        out,
        split=split,
        negatives=negatives,
        range_min=range_min,
        range_max=range_max,
        relative_margin=relative_margin,
        query_prompt_name=query_prompt_name,
        document_prompt_name=document_prompt_name,
        use_faiss=faiss,
        fill=fill,
        show_progress=not (quiet or as_json),
        force=force,
    )
    counts = {**asdict(mined), "path": str(mined.path)}
    text = f"written to {mined.path}: {mined.queries:,} queries, {mined.negatives:,} negatives"
    if mined.filled:
        text += f", of which {mined.filled:,} drawn at random where too few were found"
    if mined.short:
        text += f"; {mined.short:,} queries have fewer than {negatives} negatives"
    console.show_line(counts, text, as_json, quiet)


@verb("score")
def score_command(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a cross-encoder (reranker).")],
    source: Annotated[str, typer.Argument(help="The .jsonl file with query, pos and neg.")],
    out: Out,
    batch_size: BatchSize = 32,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add the scores of a cross-encoder to a training file, for distillation.

    Copies SOURCE with pos_scores and neg_scores: raw logits, one for each passage. Weights are read
    from safetensors only, and no code of the model's folder is run.

    effir score MODEL mined.jsonl scored.jsonl
    """
    from ..training.score import score

    errors.quiet_libraries()
    scored = score(
        model,
        source,
        out,
        batch_size=batch_size,
        show_progress=not (quiet or as_json),
        force=force,
    )
    counts = {**asdict(scored), "path": str(scored.path)}
    text = f"written to {scored.path}: {scored.queries:,} queries, {scored.passages:,} scores"
    console.show_line(counts, text, as_json, quiet)
