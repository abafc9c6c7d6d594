"""effir-mini before training: its tokenizer, its teacher, and weights that start as a mean.

A decoder that is trained from nothing on a few million tokens spends most of them on learning what
words mean. Here every token starts with the teacher's vector of the token's text, and the first two
attentions hand the last token the mean of all vectors before it, so that training starts from a
bag of words and has to learn only what goes beyond.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn

from effir_integrations import load

if TYPE_CHECKING:
    from pathlib import Path

END = "<|end|>"
PAD = "<|pad|>"
VOCABULARY = 16_384
MAX_LENGTH = 256
PROMPTS = {"query": "query: ", "document": "document: "}
SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "sliding_window": None,
}
_CAMEL_CASE_OR_SPACES = r"(?<=[a-z0-9])(?=[A-Z])|\s+"


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """Train a byte-level BPE tokenizer; `load` has it end each text with EOS, also when it is cut.

    Case is folded and `snake_case` and `camelCase` fall into words, so that a name in code and the
    same words in a sentence are the same tokens.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Replace(Regex(_CAMEL_CASE_OR_SPACES), " "),
            normalizers.Lowercase(),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"[^\W\d_]+|\d{1,3}|[^\w\s]|_"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=MAX_LENGTH
    )


def narrow_teacher(name: str, texts: list[str], out: Path) -> None:
    """Write the teacher with its vectors turned and cut to the student's dimension.

    The directions are those in which the vectors of the texts are longest (principal components,
    not centred, so that cosines are kept as well as so many dimensions can).
    """
    teacher = load(name, dtype="fp32")
    vectors = teacher.encode(texts, convert_to_tensor=True).double().cpu()
    _, directions = torch.linalg.eigh(vectors.T @ vectors)
    kept = directions.flip(-1)[:, : SHAPE["hidden_size"]]
    dense = Dense(len(kept), kept.shape[1], bias=False, activation_function=nn.Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(kept.T)
    SentenceTransformer(modules=[*teacher, dense, Normalize()]).save_pretrained(
        str(out), create_model_card=False
    )


def first_weights(
    tokenizer: Any, teacher: SentenceTransformer | None, seed: int, out: Path
) -> None:
    """Write the bare decoder that training starts from; without a teacher, random weights."""
    from transformers import MistralConfig, MistralModel

    torch.manual_seed(seed)
    config = MistralConfig(
        **SHAPE,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    model = MistralModel(config)
    if teacher is not None:
        start_as_mean(model)
        with torch.no_grad():
            model.embed_tokens.weight.copy_(token_vectors(tokenizer, teacher))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def token_vectors(tokenizer: Any, teacher: SentenceTransformer) -> torch.Tensor:
    """Return the teacher's vectors of the tokens' texts, (vocabulary, hidden), root mean square 1.

    Tokens that are no text of their own, such as parts of characters, get zeros: RMSNorm of zero is
    zero, so they mean nothing until they are trained.
    """
    texts = [tokenizer.decode([token]).strip() for token in range(len(tokenizer))]
    special = set(tokenizer.all_special_ids)
    known = [
        i for i, text in enumerate(texts) if text and "\ufffd" not in text and i not in special
    ]
    vectors = torch.zeros(len(texts), SHAPE["hidden_size"])
    vectors[known] = teacher.encode([texts[i] for i in known], convert_to_tensor=True).float().cpu()
    return vectors * SHAPE["hidden_size"] ** 0.5


@torch.no_grad()
def start_as_mean(model: Any) -> None:
    """Make attentions 0 and 1 copy each token's first and second half of dimensions, averaged.

    Queries and keys are near zero, so attention starts even over all tokens before. Everything
    else that writes to the residual stream starts small, as is usual for deep models.
    """
    config = model.config
    for number, layer in enumerate(model.layers):
        attention = layer.self_attn
        for output in (attention.o_proj, layer.mlp.down_proj):
            output.weight.div_((2 * config.num_hidden_layers) ** 0.5)
        width = config.num_key_value_heads * config.head_dim
        if (number + 1) * width <= config.hidden_size:
            taken = torch.zeros(width, config.hidden_size)
            taken[range(width), range(number * width, (number + 1) * width)] = 1.0
            attention.v_proj.weight.copy_(taken)
            shared = config.num_attention_heads // config.num_key_value_heads
            heads = taken.view(config.num_key_value_heads, config.head_dim, config.hidden_size)
            written = heads.repeat_interleave(shared, dim=0).flatten(0, 1) / shared
            attention.o_proj.weight.copy_(written.T)
