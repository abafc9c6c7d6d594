"""Where llama.cpp keeps the tensors of each family: one table, one row a family.

llama.cpp computes a fixed set of graphs, which it calls architectures, and each has a name for
every tensor it reads. Paths are relative to one layer or to the base model, as in `model.families`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

ZERO_WIDTH = 32
"""Neurons, all zero, of an MLP that is not there. Width 0 loads, and then llama.cpp leaves the
attention of that block out as well; 32 is the least that quantised types can hold."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """How a graph lays layers of a sliding window among those that see all tokens."""

    period: int
    """One layer of each so many sees all: the first if `first`, else the last."""
    first: bool = False
    symmetric: bool = False
    """The engine takes half the stated window to either side."""
    inclusive: bool = False
    """The model sees the tokens at the distance that its config states, not only nearer ones."""
    rope_base: float | None = None
    """The rotary base of windowed layers; None: that of all others."""
    base_is_read: bool = False
    """Whether every version reads another from the file."""

    def stated(self, size: int) -> int:
        """Return what the file states for a model whose config states a window of `size`."""
        reach = size if self.inclusive else size - 1  # tokens away that are still seen
        return 2 * reach if self.symmetric else reach + 1

    def kinds(self, layers: int) -> list[str]:
        """Return what the engine makes of each layer, in the words of `layer_types`."""
        full = 0 if self.first else self.period - 1
        kinds = ("sliding_attention", "full_attention")
        return [kinds[layer % self.period == full] for layer in range(layers)]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One of llama.cpp's graphs, and which tensor of a family goes where."""

    arch: str
    """Its name in the file."""
    outer: Mapping[str, str]
    """Module outside of the layers -> name."""
    block: Mapping[str, str]
    """Module in a layer -> name within `blk.N`; modules of one name are stacked, in this order."""
    biased: frozenset[str] = frozenset()
    """Names that may have a bias; `*`: all."""
    activations: tuple[str, ...] = ("silu",)
    """The activation functions of an MLP that it computes."""
    norm: str = "layer_norm_rms_epsilon"
    """The key of the epsilon of its norms."""
    norm_plus: float = 0.0
    """What the family adds to the weight of a norm before it is used."""
    interleaved: bool = False
    """Rotary pairs lie beside each other, not half a head apart: rows of Q and K are permuted."""
    ragged: bool = False
    """Each block has a width of its own."""
    skips_attention: bool = False
    """A block may have no attention, except the first, which tells the size of a head."""
    rope_freqs: bool = False
    """It reads a factor for each rotary frequency (Llama 3)."""
    rotary: bool = True
    causal: bool = True
    two_way: bool = False
    """The file can state that tokens see those after them as well."""
    window: Window | None = None
    """None: every layer sees all tokens of the context."""
    scale_by_width_at: int = 0
    """With so many blocks, scores are divided by the root of hidden size / heads, not of a head."""
    softcap: bool = False
    """Scores of attention are capped; the file must state at what."""
    dense: bool = False
    """It holds two projections behind the pooling."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How llama.cpp holds one of our families."""

    graph: Graph
    """Of models whose blocks are all alike."""
    ragged: Graph | None = None
    """Of pruned models whose blocks differ."""
    two_way: Graph | None = None
    """Of models whose tokens see those after them, where that is another graph."""
    epsilon: str | float = "rms_norm_eps"
    """The config attribute of the epsilon, or its value."""
    activation: str = "hidden_act"
    """The config attribute of the activation function."""
    left_out: tuple[str, ...] = ()
    """Prefixes of tensors that no vector depends on."""


_DECODER_OUTER = {"embed_tokens": "token_embd", "norm": "output_norm"}
_ATTENTION = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_GATED_MLP = {
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_MLP = {"post_attention_layernorm": "ffn_norm", **_GATED_MLP}
_QKV_BIASES = frozenset({"attn_q", "attn_k", "attn_v"})
_ALL_BIASES = _QKV_BIASES | {"attn_output", "ffn_gate", "ffn_up", "ffn_down"}

_LLAMA = Graph(
    arch="llama",
    outer=_DECODER_OUTER,
    block={**_ATTENTION, **_MLP},
    biased=_ALL_BIASES,
    interleaved=True,
    rope_freqs=True,
    two_way=True,
)
_DECI = replace(_LLAMA, arch="deci", ragged=True, skips_attention=True)
_QWEN2 = replace(_LLAMA, arch="qwen2", biased=_QKV_BIASES, interleaved=False, rope_freqs=False)
_QWEN3 = replace(
    _QWEN2, arch="qwen3", block={**_ATTENTION, **_QK_NORMS, **_MLP}, biased=frozenset()
)
_FUSED = {
    path: name if name[-2:] not in ("_q", "_k", "_v") else "attn_qkv"
    for path, name in _ATTENTION.items()
}
_OPENELM = replace(_QWEN3, arch="openelm", block={**_FUSED, **_QK_NORMS, **_MLP}, ragged=True)
_GEMMA = replace(
    _LLAMA,
    arch="gemma",
    biased=frozenset(),
    activations=("gelu_pytorch_tanh",),
    norm_plus=1.0,
    interleaved=False,
    rope_freqs=False,
)
_SANDWICH = {
    **_ATTENTION,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    **_GATED_MLP,
}
_GEMMA2 = replace(
    _GEMMA,
    arch="gemma2",
    block=_SANDWICH,
    window=Window(period=2),
    scale_by_width_at=46,
    softcap=True,
)
_GEMMA3 = replace(
    _GEMMA2,
    arch="gemma3",
    block={**_SANDWICH, **_QK_NORMS},
    window=Window(period=6, rope_base=10_000.0),
    scale_by_width_at=62,
    softcap=False,
    two_way=False,
)
_GEMMA_EMBEDDING = replace(
    _GEMMA3,
    arch="gemma-embedding",
    window=Window(period=6, symmetric=True, rope_base=10_000.0),
    scale_by_width_at=0,
    causal=False,
    dense=True,
)
_EMBEDDINGS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_BERT = Graph(
    arch="bert",
    outer=_EMBEDDINGS,
    block={
        "attention.self.query": "attn_q",
        "attention.self.key": "attn_k",
        "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output",
        "attention.output.LayerNorm": "attn_output_norm",
        "intermediate.dense": "ffn_up",
        "output.dense": "ffn_down",
        "output.LayerNorm": "layer_output_norm",
    },
    biased=frozenset("*"),
    activations=("gelu",),
    norm="layer_norm_epsilon",
    rotary=False,
    causal=False,
)
_DISTILBERT = replace(
    _BERT,
    block={
        "attention.q_lin": "attn_q",
        "attention.k_lin": "attn_k",
        "attention.v_lin": "attn_v",
        "attention.out_lin": "attn_output",
        "sa_layer_norm": "attn_output_norm",
        "ffn.lin1": "ffn_up",
        "ffn.lin2": "ffn_down",
        "output_layer_norm": "layer_output_norm",
    },
)
_MODERN_BERT = Graph(
    arch="modern-bert",
    outer={
        "embeddings.tok_embeddings": "token_embd",
        "embeddings.norm": "token_embd_norm",
        "final_norm": "output_norm",
    },
    block={
        "attn_norm": "attn_norm",
        "attn.Wqkv": "attn_qkv",
        "attn.Wo": "attn_output",
        "mlp_norm": "ffn_norm",
        "mlp.Wi": "ffn_up",
        "mlp.Wo": "ffn_down",
    },
    activations=("gelu",),
    norm="layer_norm_epsilon",
    causal=False,
    window=Window(
        period=3,
        first=True,
        symmetric=True,
        inclusive=True,
        rope_base=10_000.0,
        base_is_read=True,
    ),
)
_ENCODER = Family(graph=_BERT, epsilon="layer_norm_eps", left_out=("pooler.",))

FAMILIES: dict[str, Family] = {
    "llama": Family(graph=_LLAMA, ragged=_DECI),
    "mistral": Family(graph=_LLAMA, ragged=_DECI),
    "qwen2": Family(graph=_QWEN2, ragged=_DECI),
    "qwen3": Family(graph=_QWEN3, ragged=_OPENELM),
    "gemma": Family(graph=_GEMMA),
    "gemma2": Family(graph=_GEMMA2, activation="hidden_activation"),
    "gemma3_text": Family(graph=_GEMMA3, two_way=_GEMMA_EMBEDDING, activation="hidden_activation"),
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "distilbert": replace(_ENCODER, graph=_DISTILBERT, epsilon=1e-12, activation="activation"),
    "modernbert": Family(graph=_MODERN_BERT, epsilon="norm_eps", activation="hidden_activation"),
}


def family_of(name: str) -> Family:
    """Return the row of a family of ours.

    Raises:
        ValueError: llama.cpp has no graph for it, or we have not written its row.
    """
    if name not in FAMILIES:
        raise ValueError(
            f"the family {name} has no row for llama.cpp; choose --to onnx, or a model of one of: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name]
