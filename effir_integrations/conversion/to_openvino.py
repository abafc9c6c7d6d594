"""Write an encoder for OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..extras import import_extra
from ..onnx.openvino import FILE, OpenVinoEncoder
from .check import least_cosine_to
from .to_onnx import write_graph
from .usage import openvino_usage
from .written import Written

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder

LEAST = {"fp32": 0.99999, "fp16": 0.999}
"""As for ONNX."""


def to_openvino(encoder: Encoder, folder: Path, *, name: str, dtype: str) -> Written:
    """Write an encoder into an empty folder, from its ONNX graph, and run it.

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
    openvino = import_extra("openvino", "openvino")
    graph = FILE.with_name("model.onnx")
    write_graph(encoder, folder, graph, name=name, dtype="fp32")
    model = openvino.Core().read_model(str(folder / graph))
    openvino.save_model(model, str(folder / FILE), compress_to_fp16=dtype == "fp16")
    del model  # it reads the file
    for read in (folder / graph).parent.glob(f"{graph.name}*"):
        read.unlink()
    written = OpenVinoEncoder(folder, threads=torch.get_num_threads())
    return Written(
        file=FILE.as_posix(),
        cosine=least_cosine_to(encoder, written, LEAST[dtype], dtype),
        least=LEAST[dtype],
        usage=openvino_usage(encoder),
        tags=("openvino",),
    )
