"""The tensors of a model under the names, in the order and in the types of llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..extras import import_extra
from .gguf_families import ZERO_WIDTH
from .gguf_layout import Block, Layout, head_size, rope_of

if TYPE_CHECKING:
    from torch import Tensor

Q8_BLOCK = 32
"""Values of one scale in Q8_0."""
_ALWAYS_F32 = ("position_embd.weight", "token_types.weight", "rope_freqs.weight")
"""Tables that llama.cpp adds or multiplies in fp32."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A tensor of the file."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    """Returns it, fp32."""


def pieces_of(model: Any, layout: Layout, dense: Sequence[Any] = ()) -> list[Piece]:
    """Return the tensors of the file, in its order.

    Args:
        model: The base model.
        layout: Of it.
        dense: Two `Dense` modules that follow the pooling.

    Raises:
        ValueError: The model has a tensor for which the graph has no place.
    """
    moving = _Moving(model, layout)
    pieces = [
        *moving.outer(),
        *(x for place in range(len(layout.blocks)) for x in moving.block(place)),
    ]
    moving.check_all_taken()
    if rope_of(model.config).get("rope_type") == "llama3":
        factors = llama3_factors(rope_of(model.config), head_size(model.config))
        pieces.append(_piece("rope_freqs.weight", factors))
    for number, module in enumerate(dense, start=2):
        pieces.append(_piece(f"dense_{number}.weight", module.linear.weight))
    return pieces


class _Moving:
    """Takes the tensors of a model one by one, and knows which are left."""

    def __init__(self, model: Any, layout: Layout) -> None:
        self.config, self.layout, self.graph = model.config, layout, layout.graph
        self.state: dict[str, Tensor] = model.state_dict()
        self.left = set(self.state)
        self.layers = layout.architecture.layers
        kept = {block.layer for block in layout.blocks}
        self.left -= {x for x in self.state if self._layer(x) not in (None, *kept)}

    def _layer(self, name: str) -> int | None:
        rest = name.removeprefix(f"{self.layers}.")
        return int(rest.partition(".")[0]) if rest != name else None

    def outer(self) -> Iterator[Piece]:
        for module, name in self.graph.outer.items():
            yield from self._moved([module], name, name)

    def block(self, place: int) -> Iterator[Piece]:
        block, together = self.layout.blocks[place], _together(self.graph.block)
        for name, modules in together.items():
            paths = [f"{self.layers}.{block.layer}.{module}" for module in modules]
            target = f"blk.{place}.{name}"
            if self._is_there(block, name):
                yield from self._moved(paths, name, target)
            elif name.startswith("ffn_") or not self.graph.skips_attention or place == 0:
                yield self._nothing(modules, name, target)

    def _is_there(self, block: Block, name: str) -> bool:
        return bool(block.width) if name.startswith("ffn_") else block.attention

    def _moved(self, paths: list[str], name: str, target: str) -> Iterator[Piece]:
        for kind in ("weight", "bias"):
            keys = [f"{path}.{kind}" for path in paths]
            found = [self.state[key] for key in keys if key in self.state]
            if not found or (kind == "bias" and not {name, "*"} & self.graph.biased):
                continue
            self.left -= set(keys)
            yield _piece(f"{target}.{kind}", *found, change=self._change(name))

    def _change(self, name: str) -> Callable[[Tensor], Tensor]:
        heads = self.config.num_attention_heads
        groups = getattr(self.config, "num_key_value_heads", None) or heads
        if self.graph.interleaved and name in ("attn_q", "attn_k"):
            count = heads if name == "attn_q" else groups
            return lambda rows: interleave(rows, count)
        if self.graph.norm_plus and name.endswith("_norm"):
            return lambda weight: weight + self.graph.norm_plus
        if name == "position_embd":
            return lambda table: table[len(table) - self.layout.positions :]
        return lambda weight: weight

    def _nothing(self, modules: list[str], name: str, target: str) -> Piece:
        """Return zeros in the shape that a sublayer has elsewhere, or of the least width."""
        hidden = self.config.hidden_size
        shapes = {
            "ffn_norm": (hidden,),
            "ffn_gate": (ZERO_WIDTH, hidden),
            "ffn_up": (ZERO_WIDTH, hidden),
            "ffn_down": (hidden, ZERO_WIDTH),
        }
        if name not in shapes:
            layer = next(x.layer for x in self.layout.blocks if x.attention)
            like = [self.state[f"{self.layers}.{layer}.{module}.weight"] for module in modules]
            shapes[name] = (sum(len(x) for x in like), *like[0].shape[1:])
        return _piece(f"{target}.weight", torch.zeros(()).expand(shapes[name]))

    def check_all_taken(self) -> None:
        left = sorted(x for x in self.left if not x.startswith(self.layout.family.left_out))
        if not left:
            return
        output = f".{self.layout.architecture.mlp_output}.bias"
        way = "choose --to onnx, which holds any model"
        if left[0].endswith(output):
            way = f"prune by a method that adds no output bias (any but mean), or {way}"
        raise ValueError(
            f"llama.cpp's graph {self.graph.arch} has no place for {left[0]} and "
            f"{len(left) - 1} more; {way}"
        )


def _together(block: Any) -> dict[str, list[str]]:
    """Return name -> modules that are stacked under it."""
    found: dict[str, list[str]] = {}
    for module, name in block.items():
        found.setdefault(name, []).append(module)
    return found


def _piece(
    name: str, *parts: Tensor, change: Callable[[Tensor], Tensor] = lambda whole: whole
) -> Piece:
    def make() -> Tensor:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return change(whole.detach().float().cpu()).contiguous()

    with torch.device("meta"):
        like = [torch.empty(part.shape) for part in parts]
        shape = change(like[0] if len(like) == 1 else torch.cat(like)).shape
    return Piece(name=name, shape=tuple(shape), make=make)


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Reorder output rows of Q or K from rotary halves to rotary pairs beside each other.

    Args:
        rows: (heads * size, ...), a weight or a bias.
        heads: Of that projection.
    """
    size = len(rows) // heads
    parted = rows.reshape(heads, 2, size // 2, *rows.shape[1:])
    return parted.swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(rope: dict[str, Any], size: int) -> Tensor:
    """Return by what each rotary frequency is divided in Llama 3, (size / 2,) fp32.

    Args:
        rope: `rope_parameters` of the config.
        size: Of a head.
    """
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    lengths = 2 * math.pi * float(rope["rope_theta"]) ** exponents  # in tokens
    before = rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = ((before / lengths - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()


def type_of(piece: Piece, wanted: str) -> str:
    """Return the type a tensor is stored in, as llama.cpp's own tools choose.

    Vectors and tables that are added stay F32; rows that Q8_0 cannot part are F16.
    """
    if len(piece.shape) == 1 or piece.name in _ALWAYS_F32:
        return "F32"
    return "F16" if wanted == "Q8_0" and piece.shape[-1] % Q8_BLOCK else wanted


def write_file(path: Path, writer: Any, pieces: Sequence[Piece], wanted: str) -> None:
    """Write metadata that a writer holds and the tensors, one at a time.

    Args:
        path: The new file.
        writer: A `gguf.GGUFWriter` with all metadata.
        pieces: In the order of the file.
        wanted: F32, F16 or Q8_0.
    """
    gguf = import_extra("gguf", "gguf")
    types = [gguf.GGMLQuantizationType[type_of(piece, wanted)] for piece in pieces]
    for piece, kind in zip(pieces, types, strict=True):
        values, size = gguf.GGML_QUANT_SIZES[kind]
        count = math.prod(piece.shape) // values * size
        writer.add_tensor_info(piece.name, piece.shape, np.dtype(np.float32), count, raw_dtype=kind)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for piece, kind in zip(pieces, types, strict=True):
            values = piece.make().numpy()
            writer.write_tensor_data(gguf.quants.quantize(values, kind))
    finally:
        writer.close()
