"""The verb that writes a model for other engines: convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import errors
from . import console
from .app import verb
from .options import Force, Json, Model, Quiet

if TYPE_CHECKING:
    from ..conversion.convert import Converted


@verb("convert")
def convert_command(
    model: Model,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            help="onnx (onnxruntime, fastembed, TEI on a CPU), openvino, gguf (llama.cpp, Ollama) "
            "or gguf-ids (the same without a tokenizer)."
        ),
    ],
    dtype: Annotated[
        str,
        typer.Option(
            help="Of the weights: fp32, fp16 (half the file, sums in fp32) or, for onnx, int8 "
            "(products in 8 bits), for gguf, q8_0 (8 bits)."
        ),
    ] = "fp32",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a model for another engine, run it there, and compare its vectors.

    effir convert MODEL OUT --to onnx --dtype int8
    """
    from ..conversion.convert import convert

    errors.quiet_libraries()
    made = convert(model, out, to, dtype=dtype, force=force, show_progress=not (quiet or as_json))
    console.show_line(made.to_json(), _line(made), as_json, quiet)


def _line(made: Converted) -> str:
    text = f"written to {made.out / made.file}: {made.size / 1e6:,.1f} MB, {made.dtype} weights"
    if made.cosine is None:
        return f"{text}; not checked, since its runtime is not installed: {made.unchecked}"
    return f"{text}; cosine to the model's own vectors at least {made.cosine:.6f}"
