"""What a file says of a model besides its tensors: sizes, pooling, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from torch import nn

from ..encoder.inference import is_plain
from ..extras import import_extra
from .gguf_layout import Layout, head_size, rope_of
from .gguf_vocabulary import Vocabulary, add_vocabulary

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .gguf_families import Graph

_POOLINGS = {"mean": "MEAN", "cls": "CLS", "lasttoken": "LAST"}
"""Ours -> llama.cpp's."""
_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0"}
_ONNX = "choose --to onnx, which holds any modules"


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What follows the transformer."""

    pooling: str
    """llama.cpp's name."""
    dense: tuple[Any, ...] = ()
    normalized: bool = False
    """Whether the folder's vectors have unit length; llama.cpp is told when it runs."""


def heads_of(encoder: SentenceTransformer, graph: Graph) -> Heads:
    """Return what follows the transformer, if llama.cpp computes that.

    Raises:
        ValueError: It does not.
    """
    named = [type(module).__name__ for module in encoder]
    dense = tuple(module for module in encoder if isinstance(module, Dense))
    expected = [type(encoder[0]), Pooling, *(Dense for _ in dense)]
    normalized = isinstance(list(encoder)[-1], Normalize)
    if [type(x) for x in encoder] != [*expected, *([Normalize] if normalized else [])]:
        raise ValueError(f"llama.cpp computes no modules like {' -> '.join(named)}; {_ONNX}")
    if dense and not (graph.dense and _are_projections(dense)):
        where = "two without bias and activation, to and fro" if graph.dense else "none"
        raise ValueError(
            f"this model has {len(dense)} Dense modules behind its pooling, and llama.cpp's graph "
            f"{graph.arch} holds {where}; {_ONNX}"
        )
    if not dense and not is_plain(encoder):
        raise ValueError(
            f"this model does more with a text than its tokenizer, {encoder[0]} and a pooling of "
            f"all tokens; {_ONNX}"
        )
    mode: Any = encoder[1].pooling_mode
    if mode not in _POOLINGS:
        raise ValueError(f"llama.cpp has no pooling {mode!r}, only {', '.join(_POOLINGS)}; {_ONNX}")
    return Heads(pooling=_POOLINGS[mode], dense=dense, normalized=normalized)


def _are_projections(dense: tuple[Any, ...]) -> bool:
    """Say whether these are two plain projections, of which the second undoes the size."""
    plain = [
        isinstance(x.activation_function, nn.Identity)
        and x.linear.bias is None
        and not x.use_residual
        for x in dense
    ]
    return plain == [True, True] and dense[0].in_features == dense[1].out_features


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model comes from, for its users."""

    name: str
    license: str | None
    prompts: Mapping[str, str]
    similarity: str
    version: str
    """Of this package."""


def origin_of(encoder: SentenceTransformer, name: str) -> Origin:
    """Return what a folder says of itself."""
    card = getattr(encoder, "_model_card_text", None) or ""
    prompts = {key: text for key, text in (encoder.prompts or {}).items() if text}
    return Origin(
        name=Path(name).name or name,
        license=_license(card),
        prompts=prompts,
        similarity=str(getattr(encoder.similarity_fn_name, "value", encoder.similarity_fn_name)),
        version=version("effir-integrations"),
    )


def _license(card: str) -> str | None:
    block, closed, _ = card.removeprefix("---\n").partition("\n---\n")
    if not card.startswith("---\n") or not closed:
        return None
    try:
        content = yaml.safe_load(block)
    except yaml.YAMLError:
        return None
    found = content.get("license") if isinstance(content, dict) else None
    return found if isinstance(found, str) else None


def new_writer(
    layout: Layout,
    config: Any,
    heads: Heads,
    vocabulary: Vocabulary,
    told: Origin,
    *,
    wanted: str,
    rows: int,
) -> Any:
    """Return a `gguf.GGUFWriter` that holds all of a file but its tensors.

    Args:
        layout: Of the model.
        config: Of the model.
        heads: What follows it.
        vocabulary: Its tokenizer.
        told: Where it comes from.
        wanted: F32, F16 or Q8_0.
        rows: Of the table of embeddings.
    """
    gguf = import_extra("gguf", "gguf")
    writer = gguf.GGUFWriter(None, layout.graph.arch)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(told.name)
    if told.license:
        writer.add_license(told.license)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[wanted]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, layout, config, rows)
    _add_attention(writer, layout, config)
    _add_rope(writer, layout, config)
    writer.add_pooling_type(gguf.PoolingType[heads.pooling])
    for number, module in enumerate(heads.dense, start=2):
        sizes = module.linear.weight.shape
        for end, size in (("in", sizes[1]), ("out", sizes[0])):
            writer.add_uint32(f"{layout.graph.arch}.dense_{number}_feat_{end}", size)
    if "token_types" in layout.graph.outer.values():
        writer.add_token_type_count(getattr(config, "type_vocab_size", 1))
    add_vocabulary(writer, vocabulary)
    _add_ours(writer, layout, heads, told)
    return writer


def _add_sizes(writer: Any, layout: Layout, config: Any, rows: int) -> None:
    writer.add_vocab_size(rows)
    writer.add_context_length(layout.positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(layout.blocks))
    widths = layout.widths
    writer.add_feed_forward_length(widths if layout.graph.ragged else widths[0])
    epsilon = layout.family.epsilon
    value = getattr(config, epsilon) if isinstance(epsilon, str) else epsilon
    writer.add_float32(f"{layout.graph.arch}.attention.{layout.graph.norm}", value)


def _add_attention(writer: Any, layout: Layout, config: Any) -> None:
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    absent = [place > 0 and not x.attention for place, x in enumerate(layout.blocks)]
    if layout.graph.skips_attention and any(absent):
        writer.add_head_count([0 if x else heads for x in absent])
        writer.add_head_count_kv([0 if x else groups for x in absent])
    else:
        writer.add_head_count(heads)
        writer.add_head_count_kv(groups)
    if not layout.causal:
        writer.add_causal_attention(False)
    if layout.graph.softcap:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if layout.graph.window is not None:
        writer.add_sliding_window(layout.graph.window.stated(config.sliding_window))


def _add_rope(writer: Any, layout: Layout, config: Any) -> None:
    gguf = import_extra("gguf", "gguf")
    if not layout.graph.rotary:
        return
    size, rope, window = head_size(config), rope_of(config), layout.graph.window
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if window is not None:  # which engines read that do not derive it
        base = rope_of(config, "sliding_attention")["rope_theta"]
        writer.add_float32(f"{layout.graph.arch}.rope.freq_base_swa", base)


def _add_ours(writer: Any, layout: Layout, heads: Heads, told: Origin) -> None:
    """Add what the format has no key for, under names of ours that engines do not read."""
    writer.add_string("effir.version", told.version)
    writer.add_string("effir.family", layout.architecture.family)
    writer.add_uint32("effir.max_length", layout.longest)
    writer.add_bool("effir.normalize", heads.normalized)
    writer.add_string("effir.similarity", told.similarity)
    for name, text in told.prompts.items():
        writer.add_string(f"effir.prompt.{name}", text)
