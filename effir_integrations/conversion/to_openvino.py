"""Write an encoder for OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import import_extra
from ..onnx.openvino import FILE, OpenVinoEncoder
from .check import least_cosine_to
from .engine_files import write_engine_files
from .graph import check_graph
from .onnx_file import write_onnx
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
    check_graph(encoder, name)
    write_engine_files(encoder, folder)
    place = (folder / FILE).parent
    place.mkdir()
    write_onnx(encoder, place / "model.onnx", "fp32")
    model = openvino.Core().read_model(str(place / "model.onnx"))
    openvino.save_model(model, str(folder / FILE), compress_to_fp16=dtype == "fp16")
    del model  # it reads the file
    for read in place.glob("model.onnx*"):
        read.unlink()
    return Written(
        file=FILE.as_posix(),
        cosine=least_cosine_to(encoder, OpenVinoEncoder(folder), LEAST[dtype], dtype),
        least=LEAST[dtype],
        usage=openvino_usage(encoder),
        tags=("openvino",),
    )
