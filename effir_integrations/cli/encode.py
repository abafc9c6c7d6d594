"""The verb that encodes a corpus into a file: encode."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import errors
from . import console
from .app import verb
from .options import Device, EncodingPrecision, Force, Json, MaxLength, Model, Quiet

if TYPE_CHECKING:
    from ..corpus.on_ray import ClusterEncoding
    from ..corpus.to_file import EncodedFile


class Role(str, Enum):
    """What the texts are to the model, which may have a prompt for it."""

    document = "document"
    query = "query"


@verb("encode")
def encode_command(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="A .jsonl or .parquet file with an id and a text (title goes in front), or a BEIR "
            "folder, of which corpus.jsonl is read, or queries.jsonl with --role query. With --ray "
            "also s3://, gs:// and folders of such files."
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="File to write: .npy (float32, ids beside it in NAME.ids.txt), .parquet or .jsonl "
            "(docid and vector, as Anserini reads them). With --ray a folder of Parquet files."
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
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Encode on a Ray cluster: auto, ray://HOST:PORT, or local: one on this machine.",
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Copies of the model, with --ray. Default: as many as fit."),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Encode a corpus of any size into one file of vectors, in flat memory.

    Interrupted, even by kill -9, it resumes where it stopped when the same command is given again
    (without --force); until OUT is whole it is not there.

    effir encode MODEL --data beir/scifact --out vectors.npy

    effir encode MODEL --data corpus.parquet --out vectors.parquet --precision bf16

    effir encode MODEL --data s3://bucket/corpus --out s3://bucket/vectors --ray auto
    """
    errors.quiet_libraries()
    show_progress = not (quiet or as_json)
    settings: dict[str, Any] = {
        "prompt": prompt,
        "normalize_embeddings": normalize,
        "truncate_dim": truncate_dim,
        "window": window,
    }
    loading: dict[str, Any] = {"precision": precision, "max_length": max_length}
    if ray is not None:
        if device is not None:
            raise ValueError("--device is chosen by the cluster; leave it out with --ray")
        config = {**settings, **loading, "role": role.value, "actors": actors}
        result = _encode_on_ray(model, data, out, ray, config, force, show_progress)
        console.show_line(asdict(result), _shards_line(result), as_json, quiet)
        return
    if actors is not None:
        raise ValueError(f"--actors {actors} is for --ray; leave it out")
    loading["device"] = device
    options = {**settings, "force": force, "show_progress": show_progress}
    encoded = _encode_here(model, data, Path(out), role.value, loading, options)
    console.show_line(_content(encoded), _line(encoded), as_json, quiet)


def _encode_here(
    model: str,
    corpus: str,
    out: Path,
    role: str,
    loading: dict[str, Any],
    options: dict[str, Any],
) -> EncodedFile:
    from ..corpus.to_file import check_encode_to_file, encode_to_file
    from ..data.corpus import corpus_file

    source = corpus_file(corpus, role)
    check_encode_to_file(source, out, force=options["force"])
    _check_device(loading["device"])
    from ..encoder.encoder import role_prompt
    from ..encoder.loading import load
    from ..encoder.pair import PairEncoder
    from ..encoder.space_record import documents_of, encodes_as

    made_by = documents_of(model) if role == "document" else encodes_as(model)
    encoder = load(model, **loading)
    if isinstance(encoder, PairEncoder):
        encoder = encoder.tower(role)
    if options["prompt"] is None:
        options["prompt"] = role_prompt(encoder, role)
    return encode_to_file(encoder, source, out, made_by=made_by, **options)


def _encode_on_ray(
    model: str,
    corpus: str,
    out: str,
    address: str,
    config: dict[str, Any],
    force: bool,
    show_progress: bool,
) -> ClusterEncoding:
    from ..corpus.on_ray import ClusterConfig, encode_on_ray
    from ..data.corpus import corpus_file

    if Path(corpus).is_dir() and config["role"] == "query":
        corpus = str(corpus_file(corpus, "query"))
    return encode_on_ray(
        model,
        corpus,
        out,
        address=None if address == "local" else address,
        config=ClusterConfig(**config),
        force=force,
        show_progress=show_progress,
    )


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


def _shards_line(encoding: ClusterEncoding) -> str:
    text = (
        f"written to {encoding.out}: {encoding.texts:,} texts x {encoding.dimension:,} dimensions "
        f"in {encoding.shards:,} shards"
    )
    return text + (f"; {encoding.found:,} were there already" if encoding.found else "")


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
