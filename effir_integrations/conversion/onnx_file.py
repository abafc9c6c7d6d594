"""Write an encoder as one ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..extras import import_extra
from ..onnx.encoder import IDS, MASK, OUTPUT, PROMPT_LENGTH
from .graph import EncoderGraph, as_traced, leaves_prompt_out
from .onnx_weights import store_in_half, store_tables_in_bytes

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder

OPSET = 18
"""Read by any onnxruntime of the last years, such as those in TEI and in fastembed."""
IR_VERSION = 10
DATA_SUFFIX = "_data"
"""Weights of a model beyond what one file holds lie beside it; TEI looks for that name."""
_MOST_IN_ONE_FILE = 1_900_000_000


def write_onnx(encoder: Encoder, path: Path, dtype: str) -> None:
    """Trace an encoder in fp32 and write it.

    Args:
        encoder: On the CPU, in fp32, that `check_graph` let pass.
        path: File to write; its folder is there.
        dtype: Of the weights: fp32, fp16 or int8.

    Raises:
        ImportError: onnx, onnxscript or, for int8, onnxruntime is not installed.
        ValueError: A weight is beyond half precision.
    """
    onnx = import_extra("onnx", "onnx")
    traced = path.with_name("traced.onnx")
    try:
        _trace(encoder, traced)
        model = onnx.load(str(traced))
        _clean(model)
        if dtype == "int8":
            model = _quantised(onnx, model, traced)
            store_tables_in_bytes(onnx, model)
        elif dtype == "fp16":
            store_in_half(onnx, model)
        _save(onnx, model, path)
    finally:
        for left in path.parent.glob("traced*"):
            left.unlink()


def _trace(encoder: Encoder, path: Path) -> None:
    """Write the graph as the exporter makes it.

    By torch.export: slower than the exporter before it (`dynamo=False`), which is no longer
    maintained, and it holds every family of the table.
    """
    import_extra("onnxscript", "onnx")
    graph = EncoderGraph(encoder).eval()
    # sizes that no layer has, and padding on both sides
    ids, mask = torch.ones(3, 11, dtype=torch.long), torch.ones(3, 11, dtype=torch.long)
    mask[0, :3], mask[1, 7:] = 0, 0
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    names, given = [IDS, MASK], [ids, mask]
    shapes: list[Any] = [{0: batch, 1: tokens}, {0: batch, 1: tokens}]
    if leaves_prompt_out(encoder):
        names, given, shapes = [*names, PROMPT_LENGTH], [*given, torch.tensor([2])], [*shapes, None]
    with as_traced(graph.model), _quietly():
        program: Any = torch.onnx.export(
            graph,
            tuple(given),
            dynamo=True,
            input_names=names,
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamic_shapes=tuple(shapes),
            verbose=False,
        )
        program.save(str(path), external_data=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to ourselves what the exporter says of its own insides."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _clean(model: Any) -> None:
    """Take out where on this machine each operation was traced."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "effir-integrations", ""
    graph = model.graph
    graph.doc_string = ""
    del model.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _quantised(onnx: Any, model: Any, path: Path) -> Any:
    """Return the model with products in 8 bits: weights by channel, activations as they come.

    Weights are unsigned as activations are. Signed ones overflow the 16 bits in which a CPU with
    AVX2 or AVX-512 but without VNNI adds them up, and vectors are others there than elsewhere.
    """
    quantization = import_extra("onnxruntime.quantization", "onnx")
    # says that shapes were inferred, which tracing did; else a warning asks for it
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    _save(onnx, model, path)
    small = path.with_name("traced-int8.onnx")
    quantization.quantize_dynamic(
        str(path),
        str(small),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=quantization.QuantType.QUInt8,
        use_external_data_format=_size(model) > _MOST_IN_ONE_FILE,
    )
    made = onnx.load(str(small))
    _check_quantised(onnx, made)
    del made.metadata_props[:]
    return made


def _check_quantised(onnx: Any, model: Any) -> None:
    wide = {x.name for x in model.graph.initializer if x.data_type == onnx.TensorProto.FLOAT}
    left = [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in wide
    ]
    if left:
        raise RuntimeError(
            f"{len(left)} products with weights, {left[0]} for one, were not quantised; nothing "
            "was written, please report this with the model's name"
        )


def _size(model: Any) -> int:
    return sum(weight.ByteSize() for weight in model.graph.initializer)


def _save(onnx: Any, model: Any, path: Path) -> None:
    data = path.with_name(path.name + DATA_SUFFIX)
    data.unlink(missing_ok=True)
    if _size(model) <= _MOST_IN_ONE_FILE:
        onnx.save_model(model, str(path))
        return
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data.name,
        convert_attribute=False,
    )
