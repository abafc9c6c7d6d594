"""Random models of a real model's shape, and texts whose tokens are counted beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, MistralConfig, PreTrainedTokenizerFast

from effir_integrations import BaseIdentity, Encoder, PruningPlan, load
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.model.apply import apply

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
LIMIT = 512
"""Tokens a text is cut to, as in the paper; none here is as long."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a Mistral model."""

    name: str
    """What the page calls it."""
    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int

    def config(self) -> MistralConfig:
        """Return the config of Mistral-7B v0.3 in these sizes."""
        return MistralConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=32_768,
            sliding_window=None,
            pad_token_id=0,
            # 0.02 at 4,096: what enters a projection has length 1 a number at any width
            initializer_range=1.28 * self.hidden**-0.5,
        )


MISTRAL_7B = Shape(
    name="Mistral-7B",
    hidden=4096,
    layers=32,
    intermediate=14_336,
    heads=32,
    kv_heads=8,
    vocabulary=32_000,
)
SMALL = Shape(
    name="small", hidden=256, layers=4, intermediate=512, heads=8, kv_heads=4, vocabulary=1000
)
TINY = Shape(name="tiny", hidden=16, layers=4, intermediate=32, heads=4, kv_heads=2, vocabulary=200)
SMALLEST = Shape(
    name="smallest", hidden=16, layers=2, intermediate=32, heads=4, kv_heads=2, vocabulary=200
)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is taken from a model."""

    mlps: int = 0
    """MLPs dropped, of 32; of fewer layers the same share."""
    width: float = 0.0
    """Share of the neurons of the MLPs left that goes."""

    @property
    def name(self) -> str:
        """Return it in words, as of 32 layers."""
        parts = [f"{self.mlps} MLPs dropped"] * bool(self.mlps)
        parts += [f"{self.width:.0%} of the width gone"] * bool(self.width)
        return ", ".join(parts) or "full"

    def plan(self, base: BaseIdentity) -> PruningPlan:
        """Return a plan that takes it: MLPs before the last, and any neurons.

        Which ones does not change the time.
        """
        layers = base.layers
        count = layers * self.mlps // 32
        dropped = tuple(range(layers - 1 - count, layers - 1))
        generator = torch.Generator().manual_seed(0)
        neurons = {
            layer: torch.randperm(full, generator=generator)[: self._kept(full)].sort().values
            for layer, full in enumerate(base.mlp_widths)
            if self.width and layer not in dropped
        }
        return PruningPlan(base=base, drop_mlp=dropped, neurons=neurons)

    def _kept(self, full: int) -> int:
        multiple = 64 if full >= 1024 else 8
        return multiple * round((1 - self.width) * full / multiple)


FULL = Cut()
DEPTH = Cut(mlps=16)
MAIN = Cut(mlps=16, width=0.3)
"""The paper's main setting."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that the sections measure with."""

    shape: Shape
    """Of the model that is timed."""
    small: Shape
    """Of the models that are checked."""
    longest: int
    """Tokens of the longest text that is checked."""
    device: str
    """As in torch."""
    work: Path
    """Folder for models on disk."""
    texts: Mapping[str, Sequence[str]]
    """`queries` and `documents`."""
    calibration: Sequence[str]
    """What `analyze` and `reconstruct` read."""
    rounds: int
    """Times that everything is timed."""
    batches: Mapping[str, int]
    """Texts in each batch of those who count texts: queries, documents."""
    batch_tokens: int | None
    """Padded tokens of an `Encoder`'s batch; None leaves its own choice."""
    backend: str
    """What `torch.compile` compiles with."""


def make_texts(count: int, shortest: int, longest: int, *, vocabulary: int, seed: int) -> list[str]:
    """Return texts of evenly drawn lengths, in tokens of `make_tokenizer`, BOS and EOS counted."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest - 2, longest - 1, (count,), generator=generator).tolist()
    words = vocabulary - len(SPECIALS)
    drawn = torch.randint(words, (sum(lengths),), generator=generator).tolist()
    made, start = [], 0
    for length in lengths:
        made.append(" ".join(f"w{word}" for word in drawn[start : start + length]))
        start += length
    return made


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a word, with BOS and EOS as retrievers on Mistral have."""
    words = [*SPECIALS, *(f"w{number}" for number in range(vocabulary - len(SPECIALS)))]
    ids = {word: place for place, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=LIMIT,
    )


def random_model(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Any:
    """Return a random base model, drawn where it is to lie.

    What a sublayer adds is scaled as in GPT-2, so that rounding is not blown up by the depth more
    than in trained models.
    """
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = AutoModel.from_config(shape.config(), dtype=dtype)
    with torch.no_grad():
        for layer in model.layers:
            for output in (layer.self_attn.o_proj, layer.mlp.down_proj):
                output.weight.mul_((2 * shape.layers) ** -0.5)
    return model.eval()


def write_bare(shape: Shape, model: Any, folder: Path) -> Path:
    """Write a model and the tokenizer as a bare Hugging Face folder."""
    model.save_pretrained(folder)
    make_tokenizer(shape.vocabulary).save_pretrained(folder)
    return folder


def make_encoder(
    setting: Setting, shape: Shape, cut: Cut = FULL, dtype: torch.dtype = torch.bfloat16
) -> Encoder:
    """Return an encoder around a random model of a shape, cut by our own surgery.

    A model of 7B parameters is drawn on the device in seconds, and would be written and read in
    minutes: so the folder that is loaded holds the tokenizer and a model of one small layer, in
    whose place the large one is put.
    """
    folder = setting.work / f"frame-{shape.vocabulary}"
    if not folder.is_dir():
        frame = Shape(
            name="frame",
            hidden=8,
            layers=1,
            intermediate=8,
            heads=2,
            kv_heads=1,
            vocabulary=shape.vocabulary,
        )
        write_bare(frame, random_model(frame, "cpu", torch.float32), folder)
    transformer: Any = load(folder, device=setting.device, max_length=LIMIT)[0]
    transformer.model = random_model(shape, setting.device, dtype)
    if cut != FULL:
        transformer.model = apply(transformer.model, cut.plan(BaseIdentity.of(transformer.model)))
    modules = [transformer, Pooling(shape.hidden, pooling_mode="lasttoken"), Normalize()]
    encoder = Encoder(modules=modules, device=setting.device, similarity_fn_name="cosine")
    encoder.batch_tokens = setting.batch_tokens or encoder.batch_tokens
    encoder.eval()
    encoder.find_shortcuts()
    return encoder


def sizes(encoder: Encoder) -> dict[str, int]:
    """Return the parameters of a model without LM head, as the paper counts, and those of layers.

    Numbers that are packed, as in 4 bits, are not counted one by one: call it before.
    """
    model: Any = transformer_model(encoder)
    total = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": total,
        "non_embedding": total - model.get_input_embeddings().weight.numel(),
    }


def count_tokens(encoder: Encoder, texts: Sequence[str]) -> int:
    """Return the tokens of texts, special ones included, as truncated."""
    encoded = encoder.tokenizer(list(texts), truncation=True, max_length=LIMIT)["input_ids"]
    return sum(map(len, encoded))
