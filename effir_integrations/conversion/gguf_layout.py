"""Choose the graph of llama.cpp that computes a model, or say what it would compute otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..encoder.encoder import transformer_model
from ..encoder.shortcuts import sees_left_only
from ..encoder.tokenization import table_positions, token_limit
from ..model.families import find
from ..model.surgery import dropped_attention, mlp_widths
from .gguf_families import ZERO_WIDTH, Family, Graph, family_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..model.families import Architecture

_ROPE_TYPES = ("default", "linear", "llama3")
_ONNX = "choose --to onnx, which holds any model"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of the file."""

    layer: int
    """Of the model."""
    attention: bool
    width: int
    """Neurons of its MLP, 0 where it was dropped."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which graph holds a model, and how."""

    family: Family
    architecture: Architecture
    graph: Graph
    blocks: tuple[Block, ...]
    causal: bool
    positions: int
    """Tokens of a text up to which the file computes what the model does."""
    longest: int
    """Tokens that the folder cuts texts to."""
    notes: list[str] = field(default_factory=list)
    """What differs from the folder, for those who use the file."""

    @property
    def widths(self) -> list[int]:
        """Neurons of each block as the file states them."""
        return [block.width or ZERO_WIDTH for block in self.blocks]


def lay_out(encoder: SentenceTransformer) -> Layout:
    """Return how llama.cpp holds an encoder.

    Raises:
        ValueError: No graph of llama.cpp computes it.
    """
    model: Any = transformer_model(encoder)
    architecture = find(model.config)
    family = family_of(architecture.family)
    causal = sees_left_only(model)
    dense = _two_way(family, causal, architecture.family)
    blocks = _blocks(model, architecture)
    graph = dense if _alike(blocks) else _ragged(family, dense, blocks)
    layout = Layout(
        family=family,
        architecture=architecture,
        graph=graph,
        blocks=blocks,
        causal=causal,
        positions=table_positions(model) or model.config.max_position_embeddings,
        longest=token_limit(encoder) or model.config.max_position_embeddings,
    )
    _check_activation(layout, model.config)
    _check_scores(layout, model.config)
    _check_rope(layout, model.config)
    return _windowed(layout, model.config)


def _two_way(family: Family, causal: bool, name: str) -> Graph:
    graph = family.graph
    if not causal and graph.causal:
        graph = family.two_way or graph
        if graph.causal and not graph.two_way:
            raise ValueError(f"llama.cpp lets no token of {name} see those after it; {_ONNX}")
    if causal and not graph.causal:
        raise ValueError(f"llama.cpp lets all tokens of {name} see each other; {_ONNX}")
    return graph


def _blocks(model: Any, architecture: Architecture) -> tuple[Block, ...]:
    """Return the blocks that are left; where no norm stays behind, an empty one is nothing."""
    gone = dropped_attention(model, architecture)
    blocks = [
        Block(layer=layer, attention=layer not in gone, width=width)
        for layer, width in enumerate(mlp_widths(model, architecture))
    ]
    norms_stay = bool(architecture.attention_sum or architecture.mlp_sum)
    return tuple(x for x in blocks if norms_stay or x.attention or x.width)


def _alike(blocks: tuple[Block, ...]) -> bool:
    widths = {block.width for block in blocks}
    return all(block.attention and block.width for block in blocks) and len(widths) == 1


def _ragged(family: Family, graph: Graph, blocks: tuple[Block, ...]) -> Graph:
    if family.ragged is not None and graph is family.graph:
        return family.ragged
    widths = ", ".join(str(block.width) for block in blocks)
    without = [block.layer for block in blocks if not block.attention]
    missing = f" and no attention in layers {without}" if without else ""
    raise ValueError(
        f"llama.cpp's graph {graph.arch} has attention and one width in all blocks, and this model "
        f"has MLPs of {widths} neurons{missing}; prune the base again with --uniform, or {_ONNX}"
    )


def _check_activation(layout: Layout, config: Any) -> None:
    name = getattr(config, layout.family.activation)
    if name not in layout.graph.activations:
        raise ValueError(
            f"llama.cpp's graph {layout.graph.arch} computes "
            f"{' or '.join(layout.graph.activations)}, and the MLPs of this model {name}; {_ONNX}"
        )


def head_size(config: Any) -> int:
    """Return the dimensions of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _check_scores(layout: Layout, config: Any) -> None:
    """Compare how scores of attention are scaled and capped, which the engine derives."""
    graph, stated = layout.graph, getattr(config, "query_pre_attn_scalar", None)
    by_width = len(layout.blocks) == graph.scale_by_width_at
    derived = config.hidden_size // config.num_attention_heads if by_width else head_size(config)
    if stated is not None and stated != derived:
        raise ValueError(
            f"llama.cpp scales the attention of a {graph.arch} of {len(layout.blocks)} blocks by "
            f"the root of {derived}, and this model by that of {stated}; {_ONNX}"
        )
    if (getattr(config, "attn_logit_softcapping", None) is not None) != graph.softcap:
        caps = "caps" if graph.softcap else "does not cap"
        raise ValueError(f"llama.cpp {caps} the scores of a {graph.arch}; {_ONNX}")


def rope_of(config: Any, kind: str = "full_attention") -> dict[str, Any]:
    """Return the rotary parameters of layers of one kind, empty of a model without."""
    stated = getattr(config, "rope_parameters", None) or {}
    found: dict[str, Any] = stated.get(kind) or stated
    return found


def _check_rope(layout: Layout, config: Any) -> None:
    rope, graph = rope_of(config), layout.graph
    kind = rope.get("rope_type", "default")
    if kind not in _ROPE_TYPES or (kind == "llama3" and not graph.rope_freqs):
        raise ValueError(
            f"this model scales its rotary frequencies the way {kind!r}, for which llama.cpp's "
            f"graph {graph.arch} has no place here; {_ONNX}"
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"this model rotates a part of each head only; {_ONNX}")
    window, local = graph.window, rope_of(config, "sliding_attention")
    if window is None or window.rope_base is None:
        return
    base, kind = local.get("rope_theta"), local.get("rope_type", "default")
    if kind != "default" or (base != window.rope_base and not window.base_is_read):
        raise ValueError(
            f"llama.cpp rotates windowed layers of a {graph.arch} by the base {window.rope_base}, "
            f"and this model by {base} ({kind}); {_ONNX}"
        )


def _windowed(layout: Layout, config: Any) -> Layout:
    """Compare the windowed layers, or cut texts to the window where the graph has none."""
    size: Any = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if size else "full_attention"] * config.num_hidden_layers
    kinds = [kinds[block.layer] for block in layout.blocks]
    window = layout.graph.window
    if window is not None:
        return _same_pattern(layout, kinds, window.kinds(len(kinds)))
    if "sliding_attention" not in kinds or size >= layout.positions:
        return layout
    note = (
        f"The model sees {size} tokens back in some layers, and llama.cpp all of them: vectors are "
        f"the folder's for texts of at most {size} tokens, which the context length states."
    )
    return _replaced(layout, positions=size, longest=min(layout.longest, size), note=note)


def _same_pattern(layout: Layout, kinds: list[str], expected: list[str]) -> Layout:
    differing = [place for place, kind in enumerate(kinds) if kind != expected[place]]
    if differing:
        place = differing[0]
        raise ValueError(
            f"llama.cpp derives from the number of blocks of a {layout.graph.arch} which are "
            f"windowed, and takes block {place} for {expected[place]}, which is {kinds[place]} in "
            f"this model (layer_types); drop whole periods of "
            f"{layout.graph.window.period if layout.graph.window else 0} layers, or {_ONNX}"
        )
    return layout


def _replaced(layout: Layout, *, note: str, **changes: Any) -> Layout:
    return replace(layout, notes=[*layout.notes, note], **changes)
