"""Random tiny encoders and calls, drawn from a seed; a choice is data, so a failure can be kept."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_texts import cleaned, draw_prompts, draw_texts
from random_tokenizers import TOKENIZERS, VOCABULARY, tokenizer_of
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from tiny import FAMILIES, tiny_model
from torch import nn

from effir_integrations import Encoder, load
from effir_integrations.encoder import inference
from effir_integrations.model.apply import apply
from effir_integrations.model.families import ARCHITECTURES
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan

POSITIONS = 128
FULL, SLIDING = "full_attention", "sliding_attention"
KINDS = ("qwen2", "qwen3", "gemma2", "gemma3_text", "modernbert")
"""Families whose layers choose between two kinds of attention."""
ROTARY = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gpt_neox")
ROTARY_BY_KIND = ("gemma3_text", "modernbert")
GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")
POOLING = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
HEADS = {
    "dense": lambda size: Dense(size, 24),
    "plain": lambda size: Dense(size, 40, bias=False, activation_function=nn.Identity()),
    "norm": LayerNorm,
    "unit": lambda size: Normalize(),
}


@dataclass(frozen=True)
class ModelChoices:
    """What an encoder is made of; the defaults are the plainest."""

    family: str = "llama"
    seed: int = 0
    layers: int = 2
    config: dict[str, Any] = field(default_factory=dict)
    """Added to the config of Transformers."""
    eager: bool = False
    drop_attention: tuple[int, ...] = ()
    drop_mlp: tuple[int, ...] = ()
    neurons: dict[int, int] = field(default_factory=dict)
    """Layer -> neurons that are kept."""
    surgery: str = "saved"
    """Whether the folder holds the pruned model, or the loaded one is pruned."""
    tokenizer: str = "words"
    ends: tuple[str, ...] = ("bos",)
    pad: str = "own"
    padding_side: str = "right"
    truncation_side: str = "right"
    limit: int = 32
    limited_by: str = "tokenizer"
    pooling: tuple[str, ...] = ("lasttoken",)
    include_prompt: bool = True
    heads: tuple[str, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    dtype: str = "fp32"


@dataclass(frozen=True)
class CallChoices:
    """What is asked of it."""

    texts: tuple[str, ...] = ("w1 w2 w3 w4 w5", "w6")
    method: str = "encode"
    prompt: str | None = None
    prompt_name: str | None = None
    normalize: bool = False
    truncate_dim: int | None = None
    given_as: str = "list"
    window: int = inference.WINDOW
    batch_tokens: int | None = None
    batch_padding: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What both classes are given."""
        return {
            "prompt": self.prompt,
            "prompt_name": self.prompt_name,
            "normalize_embeddings": self.normalize,
            "truncate_dim": self.truncate_dim,
        }


def shown(choices: Any) -> str:
    """Return what differs from the defaults, as a line that makes the same choices again."""
    plain = type(choices)()
    told = [x.name for x in fields(choices) if getattr(choices, x.name) != getattr(plain, x.name)]
    return f"{type(choices).__name__}({', '.join(f'{x}={getattr(choices, x)!a}' for x in told)})"


def draw_model(seed: str) -> ModelChoices:
    """Return choices for a model."""
    draw = random.Random(seed)
    family = draw.choice(FAMILIES)
    layers = draw.randint(1, 4)
    limit = draw.choice((3, 8, 16, 32, 64, 100))
    prompts = draw_prompts(draw)
    pooling = ["lasttoken"] if draw.random() < 0.65 else draw.sample(POOLING, 1)
    if draw.random() < 0.1:
        pooling = draw.sample(POOLING, 2)
    return ModelChoices(
        family=family,
        seed=draw.randrange(1000),
        layers=layers,
        config=_draw_config(draw, family, layers),
        eager=draw.random() < 0.2,
        **_draw_surgery(draw, layers),
        # Transformers makes a byte-level tokenizer of whatever lies beside a Qwen2 model
        tokenizer="bytes" if family == "qwen2" else draw.choice(TOKENIZERS),
        ends=draw.choice(((), ("bos",), ("eos",), ("bos", "eos"))),
        pad=draw.choice(("own", "own", "eos")),
        padding_side=draw.choice(("right", "left")),
        truncation_side=draw.choice(("right", "right", "left")),
        limit=limit,
        limited_by=draw.choice(("tokenizer", "folder", "attribute")),
        pooling=tuple(pooling),
        include_prompt=draw.random() < 0.9,
        heads=draw.choice(((), ("unit",), ("dense",), ("dense", "unit"), ("norm", "plain"))),
        prompts=prompts,
        default_prompt=draw.choice((None, None, *prompts)),
        dtype="bf16" if draw.random() < 0.15 else "fp32",
    )


def _draw_config(draw: random.Random, family: str, layers: int) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if family in GROUPED:
        config["num_key_value_heads"] = draw.choice((1, 2, 4))
    if family == "gpt_neox":
        config["use_parallel_residual"] = draw.random() < 0.5
    if family == "gemma2":
        config["attn_logit_softcapping"] = draw.choice((None, 50.0, 2.0))
    if family == "gpt2" and draw.random() < 0.3:
        config["scale_attn_by_inverse_layer_idx"] = True
    return (
        config
        | _draw_kinds(draw, family, layers)
        | _draw_sight(draw, family)
        | _draw_rope(draw, family)
    )


def _draw_kinds(draw: random.Random, family: str, layers: int) -> dict[str, Any]:
    config: dict[str, Any] = {}
    window = draw.choice((None, None, 2, 5, 12, 40))
    if family in ("mistral", "phi3"):
        config["sliding_window"] = window
    elif family in KINDS:
        config["layer_types"] = [draw.choice((FULL, SLIDING)) for _ in range(layers)]
        known = {"local_attention": 2 * (window or 64)}
        config |= known if family == "modernbert" else {"sliding_window": window or 64}
        if family in ("qwen2", "qwen3"):
            config["use_sliding_window"] = True
    return config


def _draw_sight(draw: random.Random, family: str) -> dict[str, Any]:
    """Who sees whom: a decoder may be made two-way, an encoder one-way."""
    config: dict[str, Any] = {}
    if family in ("gemma", "gemma2", "gemma3_text") and draw.random() < 0.25:
        config["use_bidirectional_attention"] = True
    elif ARCHITECTURES[family].causal and draw.random() < 0.12:
        config["is_causal"] = False
    if not ARCHITECTURES[family].causal and draw.random() < 0.1:
        config["is_decoder"] = True
    return config


def _draw_rope(draw: random.Random, family: str) -> dict[str, Any]:
    original = draw.choice((8, 16, 32))
    ropes: dict[str, dict[str, Any]] = {
        "default": {"rope_type": "default"},
        "linear": {"rope_type": "linear", "factor": 4.0},
        "dynamic": {"rope_type": "dynamic", "factor": 4.0},
        "yarn": {
            "rope_type": "yarn",
            "factor": POSITIONS / original,
            "original_max_position_embeddings": original,
        },
        "longrope": {
            "rope_type": "longrope",
            "factor": POSITIONS / original,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [2.0, 3.0, 5.0, 9.0],
            "original_max_position_embeddings": original,
        },
        "llama3": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        },
    }
    names = ("default", "longrope") if family == "phi3" else tuple(ropes)
    known = family in (*ROTARY, *ROTARY_BY_KIND, "phi3")
    if not known or draw.random() < 0.4:
        return {}
    chosen = ropes[draw.choice(names)] | {"rope_theta": 100.0, "partial_rotary_factor": 1.0}
    more: dict[str, Any] = {}
    if chosen["rope_type"] == "dynamic":
        more["max_position_embeddings"] = original
    if family == "phi3" and chosen["rope_type"] == "longrope":
        more["original_max_position_embeddings"] = original
    if family in ROTARY_BY_KIND:
        plain = {"rope_type": "default", "rope_theta": 10.0}
        both = draw.random() < 0.5
        return more | {"rope_parameters": {FULL: chosen, SLIDING: chosen if both else plain}}
    return more | {"rope_parameters": chosen}


def _draw_surgery(draw: random.Random, layers: int) -> dict[str, Any]:
    if draw.random() < 0.4:
        return {}
    everywhere = range(layers)
    mlps = draw.sample(everywhere, draw.randint(0, layers))
    return {
        "drop_attention": tuple(sorted(draw.sample(everywhere, draw.randint(0, layers - 1)))),
        "drop_mlp": tuple(sorted(mlps)),
        "neurons": {
            layer: draw.choice((1, 7, 30))
            for layer in everywhere
            if layer not in mlps and draw.random() < 0.3
        },
        "surgery": draw.choice(("saved", "saved", "loaded")),
    }


def _cut(dimension: int | None, model: ModelChoices) -> int | None:
    """A number by itself may be near zero, where half precision leaves nothing to compare."""
    return dimension if dimension is None or model.dtype == "fp32" else max(8, dimension)


def draw_call(seed: str, model: ModelChoices) -> CallChoices:
    """Return choices for a call of such a model."""
    draw = random.Random(seed)
    texts = draw_texts(draw)
    given_as = draw.choice(("list", "list", "tuple", "array", "one"))
    return CallChoices(
        texts=tuple(texts[:1] if given_as == "one" else texts),
        method=draw.choice(("encode", "encode_query", "encode_document")),
        prompt=draw.choice((None, None, None, "w9 w8 w7 w6 w5 w4 ", "")),
        prompt_name=draw.choice((None, None, *model.prompts)),
        normalize=draw.random() < 0.3,
        truncate_dim=_cut(draw.choice((None, None, None, 1, 8, 17)), model),
        given_as=given_as,
        window=draw.choice((1, 3, 7, inference.WINDOW)),
        batch_tokens=draw.choice((None, None, 1, 64, 300)),
        batch_padding=draw.choice((None, None, 0, 8, 1000)),
    )


@dataclass
class Pair:
    """The same folder, loaded by both classes."""

    choices: ModelChoices
    ours: Encoder
    stock: SentenceTransformer
    exact: SentenceTransformer | None
    """In fp32, where the others are in half precision."""


def write_folder(choices: ModelChoices, folder: Path) -> Path:
    """Write such an encoder as the stock class does."""
    sizes = {
        "num_hidden_layers": choices.layers,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
    }
    model = tiny_model(choices.family, choices.seed, **{**sizes, **choices.config})
    model.to(torch.bfloat16 if choices.dtype == "bf16" else torch.float32)
    bare = folder / "bare"
    model.save_pretrained(bare)
    tokenizer = tokenizer_of(choices.tokenizer, choices.ends, pad=choices.pad)
    tokenizer.padding_side = choices.padding_side
    tokenizer.truncation_side = choices.truncation_side
    tokenizer.model_max_length = choices.limit
    tokenizer.save_pretrained(bare)
    transformer = Transformer(
        str(bare),
        model_kwargs={"dtype": "auto"},
        modality_config=inference.TEXT_ONLY,
        module_output_name="token_embeddings",
    )
    if choices.surgery == "saved":
        _prune(transformer, choices)
    torch.manual_seed(choices.seed)
    size = model.config.hidden_size
    modules: list[Any] = [transformer]
    modules.append(Pooling(size, choices.pooling, include_prompt=choices.include_prompt))
    for head in choices.heads:
        modules.append(HEADS[head](_width(modules)))
    made = SentenceTransformer(
        modules=modules,
        device="cpu",
        prompts=choices.prompts,
        default_prompt_name=choices.default_prompt,
    )
    made.save_pretrained(str(folder / "made"), create_model_card=False)
    if choices.limited_by == "folder":
        path = folder / "made" / "sentence_bert_config.json"
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"max_seq_length": choices.limit})
        )
    return folder / "made"


def _width(modules: list[Any]) -> int:
    sizes = [known() for x in modules if (known := getattr(x, "get_embedding_dimension", None))]
    return int([size for size in sizes if size][-1])


def _prune(transformer: Any, choices: ModelChoices) -> None:
    if not (choices.drop_attention or choices.drop_mlp or choices.neurons):
        return
    plan = PruningPlan(
        base=BaseIdentity.of(transformer.model),
        drop_attention=choices.drop_attention,
        drop_mlp=choices.drop_mlp,
        neurons={layer: torch.arange(48)[-kept:] for layer, kept in choices.neurons.items()},
    )
    transformer.model = apply(transformer.model, plan)


def make_pair(choices: ModelChoices, folder: Path) -> Pair:
    """Write an encoder and load it twice."""
    made = write_folder(choices, folder)
    options: dict[str, Any] = {"device": "cpu", "model_kwargs": {"dtype": "auto"}}
    stock = SentenceTransformer(str(made), **options)
    exact = SentenceTransformer(str(made), **options) if choices.dtype != "fp32" else None
    ours = load(made, device="cpu")
    for model in (ours, stock, exact):
        if model is None:
            continue
        first: Any = model[0]
        if choices.surgery == "loaded":
            _prune(first, choices)
        if choices.eager:
            first.model.set_attn_implementation("eager")
        if choices.limited_by == "attribute":
            model.max_seq_length = choices.limit
    return Pair(choices, ours, stock, exact.float() if exact is not None else None)


def forget_lengths(model: Any) -> None:
    """Undo what a dynamic RoPE keeps of the longest text so far: each text is for itself."""
    for module in model.modules():
        if not hasattr(module, "original_max_seq_len"):
            continue
        for name in [x for x in vars(module) if x.endswith("max_seq_len_cached")]:
            setattr(module, name, module.original_max_seq_len)
        for name, buffer in list(module._buffers.items()):
            if name.endswith("original_inv_freq"):
                setattr(module, name.replace("original_inv_freq", "inv_freq"), buffer.clone())


def one_by_one(model: SentenceTransformer, call: CallChoices) -> dict[str, Any]:
    """Return the vector of each text by itself, or the error that the stock class ends in."""
    found: dict[str, Any] = {}
    for text in dict.fromkeys(call.texts):
        forget_lengths(model)
        try:
            found[text] = getattr(model, call.method)(cleaned(text), **call.options)
        except Exception as error:
            found[text] = error
    return found


def ours(pair: Pair, call: CallChoices, monkeypatch: Any) -> np.ndarray:
    """Return the vectors of our class, (texts, dimension)."""
    encoder, texts = pair.ours, call.texts
    monkeypatch.setattr(inference, "WINDOW", call.window)
    for name in ("batch_tokens", "batch_padding"):
        if (value := getattr(call, name)) is not None:
            monkeypatch.setattr(encoder, name, value)
    inputs: Any = {
        "list": lambda: list(texts),
        "tuple": lambda: texts,
        "array": lambda: np.array(texts, dtype=object),
        "one": lambda: texts[0],
    }[call.given_as]()
    vectors = getattr(encoder, call.method)(inputs, **call.options)
    return vectors[None] if call.given_as == "one" else vectors


def simpler(choices: Any) -> Iterator[Any]:
    """Yield choices that are a step nearer to the defaults."""
    plain = type(choices)()
    for name in (x.name for x in fields(choices)):
        value, default = getattr(choices, name), getattr(plain, name)
        if name == "texts":
            yield from (replace(choices, texts=x) for x in _fewer_texts(value))
            continue
        if value == default:
            continue
        yield replace(choices, **{name: default})
        if isinstance(value, dict):
            for key in value:
                yield replace(choices, **{name: {k: x for k, x in value.items() if k != key}})
        elif isinstance(value, tuple):
            for place in range(len(value)):
                yield replace(choices, **{name: value[:place] + value[place + 1 :]})


def _fewer_texts(texts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if len(texts) > 1:
        half = len(texts) // 2
        yield texts[:half]
        yield texts[half:]
        if len(texts) < 12:
            yield from (texts[:x] + texts[x + 1 :] for x in range(len(texts)))
    if len(texts) < 6:
        for place, text in enumerate(texts):
            for shorter in (text[: len(text) // 2], text[len(text) // 2 :], "w1 w2"):
                if len(shorter) < len(text):
                    yield (*texts[:place], shorter, *texts[place + 1 :])
