"""Verbs that look and measure: evaluate, compare, show, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import errors
from . import console
from .app import verb
from .options import (
    Data,
    Documents,
    DropSameId,
    Dtype,
    Json,
    MaxLength,
    Model,
    Quiet,
    Split,
    TruncateDim,
)


@verb("evaluate")
def evaluate_command(
    model: Model,
    data: Data,
    documents: Documents = None,
    split: Split = "test",
    drop_same_id: DropSameId = "auto",
    max_length: MaxLength = None,
    truncate_dim: TruncateDim = None,
    dtype: Dtype = "auto",
    run_file: Annotated[
        Path | None, typer.Option(help="Also write the ranking here, in TREC format.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Encode a BEIR corpus, search it exactly, and score it: nDCG@10, R@100, RR@10, speed.

    With --documents FULL the index of FULL is kept: a table of FULL alone, of MODEL's queries on
    FULL's documents, and of MODEL alone.
    """
    from ..evaluation.compare import Comparison, compare
    from ..evaluation.evaluate import evaluate
    from ..evaluation.tables import comparison_table

    if documents is not None and run_file is not None:
        raise ValueError("--run-file is of one ranking; leave it or --documents out")
    errors.quiet_libraries()
    how: dict[str, Any] = {
        "split": split,
        "drop_same_id": drop_same_id,
        "max_length": max_length,
        "truncate_dim": truncate_dim,
        "dtype": dtype,
        "show_progress": not (quiet or as_json),
    }
    if documents is not None:
        results = compare([model], data, documents=documents, speed_rounds=0, **how)
    else:
        results = Comparison([evaluate(model, data, run_path=run_file, **how)])
    rows = [x.to_json() for x in results]
    content = comparison_table(results) if not as_json else rows if documents else rows[0]
    console.show(content, as_json, quiet)


@verb("compare")
def compare_command(
    models: Annotated[list[str], typer.Argument(help="Models; the first one is the measure.")],
    data: Data,
    documents: Documents = None,
    split: Split = "test",
    drop_same_id: DropSameId = "auto",
    max_length: MaxLength = None,
    truncate_dim: TruncateDim = None,
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Lay models side by side: size, quality as a share of the first, and speed.

    With --documents FULL, FULL is the first, and every model answers from FULL's documents and from
    its own.
    """
    from ..evaluation.compare import compare
    from ..evaluation.tables import comparison_table

    errors.quiet_libraries()
    results = compare(
        models,
        data,
        documents=documents,
        split=split,
        drop_same_id=drop_same_id,
        max_length=max_length,
        truncate_dim=truncate_dim,
        dtype=dtype,
        show_progress=not (quiet or as_json),
    )
    content = [x.to_json() for x in results] if as_json else comparison_table(results)
    console.show(content, as_json, quiet)


@verb("show")
def show_command(
    folder: Annotated[Path, typer.Argument(help="Model folder or run folder.")],
    as_json: Json = False,
) -> None:
    """Draw the layers of a model or run folder: what is there, how wide, what went."""
    from .shown import show

    errors.quiet_libraries()
    shown = show(folder)
    console.show(shown.values if as_json else shown.table, as_json, quiet=False)


@verb("demo")
def demo_command(
    model: Annotated[
        str | None,
        typer.Option(help="Model to compress. Default: effir-mini, which comes with the package."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the text, the models, the table and the answers.")
    ] = Path("effir-demo"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compress a real decoder on real text, without any download, compare and question it.

    The full model, one without some of its MLPs, and one that lost MLPs and neurons are compared;
    the last one then answers questions about Python's library in Sentence Transformers, Pyserini
    and LlamaIndex.
    """
    from ..demo.demo import ask_demo, demo
    from ..demo.questions import answers_table
    from ..evaluation.tables import comparison_table

    errors.quiet_libraries()
    show_progress = not (quiet or as_json)
    results = demo(model, out, show_progress=show_progress)
    if not as_json:
        console.show(comparison_table(results), as_json, quiet)
    asked = ask_demo(out, show_progress=show_progress)
    if as_json:
        console.print_json({"models": [x.to_json() for x in results], **asked.to_json()})
    else:
        console.show(answers_table(asked), as_json, quiet)
