"""Where each model family keeps its attention, MLP and norms: one table, one row a family.

Everything else in the package works on any row, so adding a family is adding a row. All paths are
relative to one layer, except `Architecture.layers`, which is relative to the base model (the class
that `AutoModel` returns).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .refused import why_refused

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PREFIX = "effir_"
"""A pruned checkpoint of family `bert` has the model type `effir_bert`."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The facts about one family that pruning needs."""

    family: str
    """The `model_type` of the base config."""
    class_prefix: str
    """`Bert` for `BertConfig` and `BertModel`."""
    layers: str
    """Path of the list of layers, from the base model."""
    attention_output: str
    """The attention's output projection."""
    attention_inputs: tuple[str, ...]
    """The projections to queries, keys and values, in one matrix or in three."""
    mlp_inputs: tuple[str, ...]
    """The projections into the MLP; neurons are their output rows."""
    mlp_output: str
    """The MLP's output projection; neurons are its input columns."""
    fused_inputs: int = 1
    """How many projections each of `mlp_inputs` stacks (gate and up in one matrix: 2)."""
    without_attention: dict[str, str] = field(default_factory=dict)
    """Stand-ins that remove the attention sublayer: path -> zero, zero_pair or identity."""
    without_mlp: dict[str, str] = field(default_factory=dict)
    """Stand-ins that remove the MLP sublayer: path -> zero or identity."""
    between: str = ""
    """The module whose input is the residual stream between attention and MLP."""
    attention_sum: str = ""
    """Post-LN only: the norm whose input is the stream plus the attention output."""
    mlp_sum: str = ""
    """Post-LN only: the norm whose input is the stream plus the MLP output."""
    attention: str = ""
    """Parallel residual only: the attention module, whose first output is its branch."""
    mlp: str = ""
    """Parallel residual only: the MLP module, whose output is its branch."""
    norms_branches: bool = False
    """Whether a norm follows each output projection before the residual sum (sandwich norms)."""
    parallel_flag: str = ""
    """The config attribute that switches the parallel residual on."""
    causal: bool = True
    """Whether tokens attend to the left only, unless the config says otherwise."""
    width_setting: str = "intermediate_size"
    """The config attribute of the MLP width."""
    layer_number_flag: str = ""
    """The config attribute under which a layer computes by its number."""
    first_layer_differs: bool = False
    """Whether the first layer is built unlike the others."""
    positions_by_padding_id: bool = False
    """Whether tokens are numbered from the padding id on, counting those that are not that id;
    where not, from 0, and the model takes numbers that it is given."""
    stored_otherwise: bool = False
    """Whether Transformers stores its tensors under other names, and some of them in one, so that
    a checkpoint is loaded whole and not read tensor by tensor."""

    @property
    def model_type(self) -> str:
        """The `model_type` of a pruned checkpoint."""
        return PREFIX + self.family

    def is_parallel(self, config: PretrainedConfig) -> bool:
        """Say whether attention and MLP read the same input and are added together."""
        return bool(self.parallel_flag) and bool(getattr(config, self.parallel_flag))


def _gated_decoder(family: str, class_prefix: str) -> Architecture:
    """Return the row that Llama and its many relatives share."""
    return Architecture(
        family=family,
        class_prefix=class_prefix,
        layers="layers",
        attention_inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        attention_output="self_attn.o_proj",
        mlp_inputs=("mlp.gate_proj", "mlp.up_proj"),
        mlp_output="mlp.down_proj",
        without_attention={"self_attn": "zero_pair", "input_layernorm": "identity"},
        without_mlp={"mlp": "zero", "post_attention_layernorm": "identity"},
        between="post_attention_layernorm",
    )


def _sandwich_decoder(family: str, class_prefix: str) -> Architecture:
    """Return the row of decoders that norm each branch before and after (Gemma 2 and 3)."""
    return replace(
        _gated_decoder(family, class_prefix),
        without_attention={
            "self_attn": "zero_pair",
            "input_layernorm": "identity",
            "post_attention_layernorm": "identity",
        },
        without_mlp={
            "mlp": "zero",
            "pre_feedforward_layernorm": "identity",
            "post_feedforward_layernorm": "identity",
        },
        between="pre_feedforward_layernorm",
        norms_branches=True,
    )


def _post_norm_encoder(family: str, class_prefix: str) -> Architecture:
    """Return the row of BERT and its relatives: LN(x + F(x)), and the norm stays."""
    return Architecture(
        family=family,
        class_prefix=class_prefix,
        layers="encoder.layer",
        attention_inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
        attention_output="attention.output.dense",
        mlp_inputs=("intermediate.dense",),
        mlp_output="output.dense",
        without_attention={"attention.self": "zero_pair", "attention.output.dense": "zero"},
        without_mlp={"intermediate": "identity", "output.dense": "zero"},
        between="intermediate",
        attention_sum="attention.output.LayerNorm",
        mlp_sum="output.LayerNorm",
        causal=False,
    )


def _rotary_encoder(family: str, class_prefix: str) -> Architecture:
    """Return the row of encoders with BERT's norms and a decoder's names, with gated MLPs."""
    return replace(
        _gated_decoder(family, class_prefix),
        without_attention={"self_attn": "zero_pair"},
        without_mlp={"mlp": "zero"},
        between="mlp",
        attention_sum="post_attention_layernorm",
        mlp_sum="post_mlp_layernorm",
        causal=False,
        stored_otherwise=True,
    )


_ROWS = (
    _gated_decoder("llama", "Llama"),
    _gated_decoder("mistral", "Mistral"),
    _gated_decoder("ministral3", "Ministral3"),
    _gated_decoder("qwen2", "Qwen2"),
    _gated_decoder("qwen3", "Qwen3"),
    _gated_decoder("granite", "Granite"),
    _gated_decoder("smollm3", "SmolLM3"),
    _gated_decoder("ernie4_5", "Ernie4_5"),
    replace(_gated_decoder("eurobert", "EuroBert"), causal=False),
    replace(
        _gated_decoder("olmo2", "Olmo2"),
        without_attention={"self_attn": "zero_pair", "post_attention_layernorm": "identity"},
        without_mlp={"mlp": "zero", "post_feedforward_layernorm": "identity"},
        between="mlp",
        norms_branches=True,
    ),
    _gated_decoder("gemma", "Gemma"),
    _sandwich_decoder("gemma2", "Gemma2"),
    _sandwich_decoder("gemma3_text", "Gemma3Text"),
    replace(
        _gated_decoder("phi3", "Phi3"),
        attention_inputs=("self_attn.qkv_proj",),
        mlp_inputs=("mlp.gate_up_proj",),
        fused_inputs=2,
    ),
    Architecture(
        family="modernbert",
        class_prefix="ModernBert",
        layers="layers",
        attention_inputs=("attn.Wqkv",),
        attention_output="attn.Wo",
        mlp_inputs=("mlp.Wi",),
        mlp_output="mlp.Wo",
        fused_inputs=2,
        without_attention={"attn": "zero_pair", "attn_norm": "identity"},
        without_mlp={"mlp": "zero", "mlp_norm": "identity"},
        between="mlp_norm",
        causal=False,
        first_layer_differs=True,
    ),
    _post_norm_encoder("bert", "Bert"),
    _post_norm_encoder("electra", "Electra"),
    _post_norm_encoder("ernie", "Ernie"),
    replace(_post_norm_encoder("roberta", "Roberta"), positions_by_padding_id=True),
    replace(_post_norm_encoder("camembert", "Camembert"), positions_by_padding_id=True),
    replace(_post_norm_encoder("xlm-roberta", "XLMRoberta"), positions_by_padding_id=True),
    replace(
        _post_norm_encoder("mpnet", "MPNet"),
        positions_by_padding_id=True,
        attention_inputs=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        attention_output="attention.attn.o",
        without_attention={"attention.attn": "zero_pair"},
        attention_sum="attention.LayerNorm",
    ),
    _rotary_encoder("nomic_bert", "NomicBert"),
    _rotary_encoder("gte", "Gte"),
    replace(
        _rotary_encoder("jina_embeddings_v3", "JinaEmbeddingsV3"),
        mlp_inputs=("mlp.fc1",),
        mlp_output="mlp.fc2",
    ),
    Architecture(
        family="distilbert",
        class_prefix="DistilBert",
        layers="transformer.layer",
        attention_inputs=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention_output="attention.out_lin",
        mlp_inputs=("ffn.lin1",),
        mlp_output="ffn.lin2",
        without_attention={"attention": "zero_pair"},
        without_mlp={"ffn": "zero"},
        between="ffn",
        attention_sum="sa_layer_norm",
        mlp_sum="output_layer_norm",
        causal=False,
        width_setting="hidden_dim",
    ),
    Architecture(
        family="gpt_neox",
        class_prefix="GPTNeoX",
        layers="layers",
        attention_inputs=("attention.query_key_value",),
        attention_output="attention.dense",
        mlp_inputs=("mlp.dense_h_to_4h",),
        mlp_output="mlp.dense_4h_to_h",
        without_attention={"attention": "zero_pair", "input_layernorm": "identity"},
        without_mlp={"mlp": "zero", "post_attention_layernorm": "identity"},
        between="post_attention_layernorm",
        attention="attention",
        mlp="mlp",
        parallel_flag="use_parallel_residual",
    ),
    Architecture(
        family="gpt2",
        class_prefix="GPT2",
        layers="h",
        attention_inputs=("attn.c_attn",),
        attention_output="attn.c_proj",
        mlp_inputs=("mlp.c_fc",),
        mlp_output="mlp.c_proj",
        without_attention={"attn": "zero_pair", "ln_1": "identity"},
        without_mlp={"mlp": "zero", "ln_2": "identity"},
        between="ln_2",
        width_setting="n_inner",
        layer_number_flag="scale_attn_by_inverse_layer_idx",
    ),
)

ARCHITECTURES: dict[str, Architecture] = {row.family: row for row in _ROWS}


def find(config: PretrainedConfig) -> Architecture:
    """Return the row for a config, of a base model or of an already pruned one.

    Raises:
        ValueError: The family has no row, or the model has cross-attention.
    """
    family = config.model_type.removeprefix(PREFIX)
    if family not in ARCHITECTURES:
        raise ValueError(
            f"model family {family!r} is not supported ({why_refused(family)}); choose a model of "
            "one of: "
            f"{', '.join(sorted(ARCHITECTURES))}"
        )
    if getattr(config, "add_cross_attention", False):
        raise ValueError(
            f"this {family} model has cross-attention (add_cross_attention=True), which an encoder "
            "of single texts has not; load the plain encoder instead"
        )
    return ARCHITECTURES[family]


def is_stock(model_type: str) -> bool:
    """Say whether a model type is of a family's own class, not of one of ours."""
    return not model_type.startswith(PREFIX)


def is_causal(config: PretrainedConfig) -> bool:
    """Say by the config alone whether tokens attend to the left only.

    For a checkpoint whose weights are not loaded; a loaded model is asked by
    `encoder.shortcuts.sees_left_only`.
    """
    two_way = getattr(config, "use_bidirectional_attention", False)
    return find(config).causal and not two_way and getattr(config, "is_causal", True) is not False
