"""The verb that says how far a pruned model agrees with the full one: check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import errors
from . import console
from .app import verb
from .options import Dtype, Json, MaxLength, Quiet


@verb("check")
def check_command(
    full: Annotated[str, typer.Argument(help="The model that is in use.")],
    small: Annotated[str, typer.Argument(help="What is to replace it.")],
    texts: Annotated[
        str, typer.Option(help="Your corpus: a BEIR folder, a .jsonl or a .txt file.")
    ],
    queries: Annotated[
        str | None,
        typer.Option(
            help="Your queries: a .jsonl or .txt file. Default: titles of the corpus, each of "
            "which asks for what stands under it, else first sentences."
        ),
    ] = None,
    documents: Annotated[int, typer.Option(min=1, help="At most so many, drawn evenly.")] = 5_000,
    query_count: Annotated[int, typer.Option(min=1, help="At most so many.")] = 300,
    max_length: MaxLength = None,
    dtype: Dtype = "auto",
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw how many queries lose how much to this PNG ([plot] extra)."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say how far a pruned model finds what the full one finds, on your corpus, without labels.

    Of the ten best documents the share that stays, over all queries and in the worst tenth of them;
    for the pruned model alone, and for its queries on an index that the full model made.

    effir check FULL SMALL --texts corpus.jsonl --queries queries.txt
    """
    from ..evaluation.check import check, fidelity_table
    from ..evaluation.plots import check_png, overlap_plot

    errors.quiet_libraries()
    if plot is not None:
        check_png(plot)
    found = check(
        full,
        small,
        texts,
        queries=queries,
        documents=documents,
        query_count=query_count,
        max_length=max_length,
        dtype=dtype,
        show_progress=not (quiet or as_json),
    )
    if plot is not None:
        ways = {"pruned": found.alone, "pruned, on the full index": found.kept}
        curves = {name: x.overlap_by_query for name, x in ways.items() if x is not None}
        overlap_plot(curves, f"{Path(small).name} against {Path(full).name}", plot)
    console.show(found.to_json() if as_json else fidelity_table(found), as_json, quiet)
