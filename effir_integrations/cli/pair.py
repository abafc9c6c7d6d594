"""The verb that puts an encoder of queries and one of documents into one folder: pair."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import errors
from . import console
from .app import verb
from .options import Force, Json, Quiet

if TYPE_CHECKING:
    from ..pairing.pair import Paired


@verb("pair")
def pair_command(
    queries: Annotated[
        str,
        typer.Argument(
            help="Encoder of queries, pruned from the other or trained to follow it: a folder or a "
            "name on the hub."
        ),
    ],
    documents: Annotated[str, typer.Argument(help="Encoder of documents, likewise.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    map: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="ridge|procrustes",
            help="Put a linear map behind the query encoder, solved for without labels, if it "
            "takes its vectors closer to the other's on texts that were held out. Needed where the "
            "two give vectors of other dimensions.",
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="What the map is fitted to, read as queries: a .jsonl or .txt file, a BEIR folder "
            "(its corpus), a datasets name; at most 4,000 are drawn. Default: the sentences of "
            "the texts shipped with the package."
        ),
    ] = None,
    apart: Annotated[
        bool,
        typer.Option(
            "--apart",
            help="Also write each encoder alone, to OUT-queries and OUT-documents beside OUT: what "
            "only embeds queries then needs no document encoder.",
        ),
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Put a small encoder of queries and the full one of documents into one folder.

    encode_query runs the small one, encode_document and plain encode the full one; vectors are
    those of the two alone, so an index of the full one can be kept.

    effir pair SMALL FULL OUT --map ridge --texts queries.jsonl --apart
    """
    from ..pairing.pair import pair

    errors.quiet_libraries()
    shown = not (quiet or as_json)
    made = pair(
        queries,
        documents,
        out,
        map=map,
        texts=texts,
        apart=apart,
        force=force,
        show_progress=shown,
    )
    console.show_line(made.to_json(), _line(made), as_json, quiet)


def _line(made: Paired) -> str:
    folders = [str(x) for x in (made.out, made.queries, made.documents) if x is not None]
    share = made.query_parameters / made.document_parameters
    mapped = "" if made.map is None else f". {made.map}"
    return (
        f"written to {', '.join(folders)}: {share:.1%} of the parameters for a query; both "
        f"encoders give their own vectors, with a mean cosine of {made.cosine:.4f} for the same "
        f"queries{mapped}"
    )
