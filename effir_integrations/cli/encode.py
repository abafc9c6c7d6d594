"""The verb that encodes a corpus into a file: encode."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .app import app
from .console import plain_errors
from .options import Debug, Device, EncodingPrecision, Force, Json, MaxLength, Model, Quiet

if TYPE_CHECKING:
    from ..encoding.encode_to_file import EncodedFile


class Role(str, Enum):
    """What the texts are to the model, which may have a prompt for it."""

    document = "document"
    query = "query"


@app.command(name="encode")
def encode_command(
    model: Model,
    corpus: Annotated[
        Path,
        typer.Argument(
            help="A .jsonl or .parquet file with an id and a text (title goes in front), or a BEIR "
            "folder, of which corpus.jsonl is read, or queries.jsonl with --role query."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .npy (float32, ids beside it in NAME.ids.txt), .parquet or .jsonl "
            "(docid and vector, as Anserini reads them)."
        ),
    ],
    role: Annotated[Role, typer.Option(help="Whose prompt of the model to use.")] = Role.document,
    prompt: Annotated[
        str | None, typer.Option(help="Put this in front of every text, not the model's prompt.")
    ] = None,
    normalize: Annotated[
        bool, typer.Option(help="Scale to unit length, for models that do not do so themselves.")
    ] = False,
    truncate_dim: Annotated[
        int | None,
        typer.Option(min=1, help="Keep that many leading numbers of every vector. Default: all."),
    ] = None,
    max_length: MaxLength = None,
    precision: EncodingPrecision = "auto",
    device: Device = None,
    window: Annotated[
        int,
        typer.Option(
            min=1, max=65536, help="Texts encoded together, and lost at most by an interruption."
        ),
    ] = 4096,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Encode a corpus of any size into one file of vectors, in flat memory.

    Interrupted, even by kill -9, it goes on where it stopped when the same command is given again
    (without --force); until OUT is whole it is not there.

    effir encode MODEL beir/scifact --out vectors.npy

    effir encode MODEL corpus.parquet --out vectors.parquet --precision bf16
    """
    with plain_errors(debug):
        from ..encoding.corpus import corpus_file
        from ..encoding.encode_to_file import check_encode_to_file, encode_to_file

        console.quiet_libraries()
        source = corpus_file(corpus, role.value)
        check_encode_to_file(source, out, force=force)
        _check_device(device)
        from ..encoder import role_prompt
        from ..loading import load

        encoder = load(model, device=device, precision=precision, max_length=max_length)
        encoded = encode_to_file(
            encoder,
            source,
            out,
            prompt=role_prompt(encoder, role.value) if prompt is None else prompt,
            normalize_embeddings=normalize,
            truncate_dim=truncate_dim,
            window=window,
            force=force,
            show_progress=not (quiet or as_json),
        )
        _show(encoded, as_json, quiet)


def _check_device(device: str | None) -> None:
    if device is None:
        return
    import torch

    try:
        torch.empty(0, device=device)
    # AssertionError: torch without CUDA says so by one
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device {device!r} cannot be used ({reason:.120}); choose cpu, cuda, cuda:1 or mps"
        ) from error


def _show(encoded: EncodedFile, as_json: bool, quiet: bool) -> None:
    if as_json:
        console.show(_content(encoded), as_json, quiet)
    elif not quiet:
        # unlike a table, a path must not be broken where the console ends
        console.stdout().print(_line(encoded), soft_wrap=True, markup=False)


def _content(encoded: EncodedFile) -> dict[str, Any]:
    content = asdict(encoded)
    for name in ("path", "ids_path"):
        content[name] = None if content[name] is None else str(content[name])
    return {**content, "texts_per_second": encoded.texts_per_second}


def _line(encoded: EncodedFile) -> str:
    text = (
        f"written to {encoded.path}: {encoded.rows:,} texts x {encoded.dimension:,} dimensions, "
        f"{encoded.texts_per_second:,.0f} texts/s"
    )
    if encoded.resumed_from:
        text += f"; {encoded.resumed_from:,} were there from an earlier run"
    if encoded.ids_path is not None:
        text += f"; ids in {encoded.ids_path}"
    return text
