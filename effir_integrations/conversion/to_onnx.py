"""Write an encoder for onnxruntime and what is built on it: fastembed, TEI on a CPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..onnx.runtime import FILE, OnnxEncoder
from .check import least_cosine_to
from .engine_files import write_engine_files
from .graph import check_graph
from .onnx_file import write_onnx
from .usage import onnx_usage
from .written import Written

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder

LEAST = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.95}
"""Dtype of the weights -> the smallest cosine to the vectors of the folder that is rounding."""


def to_onnx(encoder: Encoder, folder: Path, *, name: str, dtype: str) -> Written:
    """Write an encoder into an empty folder, and run it in onnxruntime where that is installed.

    Args:
        encoder: On the CPU, in fp32.
        folder: Empty.
        name: Of the model, for errors.
        dtype: One of `LEAST`.

    Raises:
        ImportError: A package is missing.
        RuntimeError: The written model gives other vectors.
        ValueError: The encoder is more than a graph holds.
    """
    write_graph(encoder, folder, FILE, name=name, dtype=dtype)
    cosine = None
    if find_spec("onnxruntime") is not None:
        # as many as torch has: two pools of all cores would wait for each other
        written = OnnxEncoder(folder, threads=torch.get_num_threads())
        cosine = least_cosine_to(encoder, written, LEAST[dtype], dtype)
    return Written(
        file=FILE.as_posix(),
        cosine=cosine,
        least=LEAST[dtype],
        unchecked='pip install "effir-integrations[onnx]", then convert again',
        usage=onnx_usage(encoder),
        tags=("onnx", "onnxruntime"),
    )


def write_graph(encoder: Encoder, folder: Path, file: Path, *, name: str, dtype: str) -> None:
    """Write an encoder's ONNX graph, and what engines read beside one, into an empty folder.

    Args:
        encoder: On the CPU, in fp32.
        folder: Empty.
        file: Of the graph, relative to it.
        name: Of the model, for errors.
        dtype: Of the weights, as of `write_onnx`.

    Raises:
        ImportError: A package is missing.
        ValueError: The encoder is more than a graph holds.
    """
    check_graph(encoder, name)
    write_engine_files(encoder, folder)
    (folder / file).parent.mkdir()
    write_onnx(encoder, folder / file, dtype)
