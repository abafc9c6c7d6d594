"""Store the weights of an ONNX graph in fewer bits, and widen them where they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

_SMALL = 1024
"""Numbers of a tensor that is not worth narrowing: norms, biases, constants."""
_HALF_MOST = float(np.finfo(np.float16).max)
_BYTE_MOST = 127


def store_in_half(onnx: Any, model: Any) -> None:
    """Store weights in half precision; a runtime widens them when it loads them, and sums in fp32.

    Raises:
        ValueError: A weight is beyond half precision.
    """
    casts = []
    for weight in _weights(onnx, model):
        name, array = weight.name, onnx.numpy_helper.to_array(weight)
        if np.abs(array).max() > _HALF_MOST:
            raise ValueError(f"{name} has numbers beyond fp16; convert the model to fp32")
        half = f"{name}_fp16"
        weight.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), half))
        casts.append(_widened(onnx, half, name))
    _replace_nodes(onnx, model, [*casts, *model.graph.node])


def store_tables_in_bytes(onnx: Any, model: Any) -> None:
    """Store tables of tokens and positions in 8 bits, with a scale a row.

    A runtime widens the rows that it reads.
    """
    graph = model.graph
    elsewhere = {
        name
        for node in graph.node
        for name in (node.input[1:] if _reads_rows(node) else node.input)
    }
    tables = {node.input[0] for node in graph.node if _reads_rows(node)} - elsewhere
    stored = set()
    for weight in list(_weights(onnx, model)):
        name, array = weight.name, onnx.numpy_helper.to_array(weight)
        if name not in tables or array.ndim != 2:
            continue
        scales = np.abs(array).max(axis=1, keepdims=True).astype(np.float32) / _BYTE_MOST
        rows = np.rint(array / np.where(scales == 0, 1, scales)).astype(np.int8)
        weight.CopyFrom(onnx.numpy_helper.from_array(rows, _bytes_of(name)))
        graph.initializer.append(onnx.numpy_helper.from_array(scales, _scales_of(name)))
        stored.add(name)
    nodes = []
    for node in graph.node:
        reads = _reads_rows(node) and node.input[0] in stored
        nodes += _row_by_row(onnx, node) if reads else [node]
    _replace_nodes(onnx, model, nodes)


def _reads_rows(node: Any) -> bool:
    return node.op_type == "Gather" and all(x.i == 0 for x in node.attribute)


def _row_by_row(onnx: Any, node: Any) -> list[Any]:
    """Return what reads rows in 8 bits and their scales, in place of a node that reads a table."""
    table, ids = node.input
    found = node.output[0]
    rows, wide, scales = (f"{found}_{part}" for part in ("int8", "rows", "scales"))
    return [
        onnx.helper.make_node("Gather", [_bytes_of(table), ids], [rows]),
        _widened(onnx, rows, wide),
        onnx.helper.make_node("Gather", [_scales_of(table), ids], [scales]),
        onnx.helper.make_node("Mul", [wide, scales], [found]),
    ]


def _bytes_of(table: str) -> str:
    return f"{table}_int8"


def _scales_of(table: str) -> str:
    return f"{table}_scales"


def _weights(onnx: Any, model: Any) -> Iterable[Any]:
    """Yield the large tensors of a graph that are held in fp32."""
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and np.prod(weight.dims) >= _SMALL:
            yield weight


def _widened(onnx: Any, narrow: str, wide: str) -> Any:
    return onnx.helper.make_node("Cast", [narrow], [wide], to=onnx.TensorProto.FLOAT)


def _replace_nodes(onnx: Any, model: Any, nodes: Iterable[Any]) -> None:
    # nodes of a graph are views that go when it is emptied
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
