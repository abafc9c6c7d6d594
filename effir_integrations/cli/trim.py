"""The verb that makes a vocabulary smaller: trim."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import errors
from ..vocabulary.config import TrimConfig
from . import console
from .app import verb
from .options import Force, FromDisk, Json, Model, Quiet

if TYPE_CHECKING:
    from ..vocabulary.trim import Trimmed


@verb("trim")
def trim_command(
    model: Model,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    texts: Annotated[
        str | None,
        typer.Option(
            help="What will be encoded, queries as well as documents: a .jsonl or .txt file, a "
            "BEIR folder (its corpus), a datasets name. All of it is read and its tokens stay."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="The most tokens that stay: those that are needed most often."),
    ] = None,
    min_count: Annotated[
        int | None,
        typer.Option(
            min=1, help="Needed so often, a token stays. Default: once, or no floor with --size."
        ),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep the tokens in this language's script as well, such as en, de, ru, zh or "
            "latin, cyrillic, cjk; may be given several times."
        ),
    ] = None,
    text_count: Annotated[
        int | None, typer.Option(min=1, help="How many texts to draw. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of that draw, and of the held-out tenth.")] = 0,
    from_disk: FromDisk = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Leave the tokens that texts or languages need; all other weights stay as they are.

    In small multilingual models most weights are vocabulary. It takes memory, not time, so this
    makes a model smaller and not faster. Texts all of whose tokens stay keep their vectors, bit for
    bit; in others a rare word is spelled by smaller tokens. The result loads wherever the model
    loads, and can be compressed afterwards; a compressed one can be trimmed.

    effir trim effir-mini OUT --texts corpus.jsonl --size 12000
    """
    from ..vocabulary.trim import trim

    errors.quiet_libraries()
    config = TrimConfig(
        size=size,
        min_count=min_count,
        languages=tuple(language or ()),
        text_count=text_count,
        seed=seed,
    )
    shown = not (quiet or as_json)
    made = trim(
        model, out, config, texts=texts, from_disk=from_disk, force=force, show_progress=shown
    )
    console.show_line(made.to_json(), _line(made), as_json, quiet)


def _line(made: Trimmed) -> str:
    share = made.parameters / made.parameters_before
    parts = [
        f"written to {made.out}: {made.tokens:,} of {made.tokens_before:,} tokens, "
        f"{made.parameters:,} parameters ({share:.1%})"
    ]
    if made.lost is not None:
        parts.append(f"{made.lost:.2%} of the tokens of {made.texts:,} texts are spelled by others")
    if made.lost_held_out is not None:
        parts.append(f"of texts like these, {made.lost_held_out:.2%} by a tenth held out")
    return "; ".join(parts)
