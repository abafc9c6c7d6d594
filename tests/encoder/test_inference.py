"""The vectors are those of the stock class, however texts are grouped, and nothing runs twice."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tiny import FAMILIES, WORDS, in_full, save_bare, tiny_tokenizer

from effir_integrations.encoder.encoder import Encoder, transformer_model
from effir_integrations.encoder.inference import WINDOW
from effir_integrations.encoder.loading import load
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.export import export

TOLERANCE = 1e-6  # other batches sum in another order; seen: 4e-7
PROMPT = "w1 w2 w3 w4 w5 w6 "
CAUSAL = ["gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "phi3"]
CAUSAL += ["qwen2", "qwen3", "ministral3", "granite", "smollm3", "ernie4_5", "olmo2"]


def random_texts(number: int = 24, longest: int = 60) -> list[str]:
    """Return texts of which some exceed the tokenizer's limit of 32 tokens, and two are equal."""
    generator = random.Random(0)
    texts = [
        " ".join(generator.choice(WORDS) for _ in range(generator.randint(1, longest)))
        for _ in range(number)
    ]
    return [*texts, "", "w1", "w1", "</s> <s>"]


def stock(encoder: Encoder, texts: list[str], **options) -> np.ndarray:
    """Return the vectors that the stock class makes of one text at a time."""
    encoder.__class__ = SentenceTransformer
    try:
        return encoder.encode(texts, batch_size=1, **options)
    finally:
        encoder.__class__ = Encoder


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory) -> Encoder:
    return load(save_bare(request.param, tmp_path_factory.mktemp(request.param)), device="cpu")


@pytest.mark.parametrize("prompt", [None, PROMPT], ids=["bare", "prompted"])
def test_vectors_are_those_of_the_stock_class(made, prompt, monkeypatch):
    texts = random_texts()
    expected = stock(made, texts, prompt=prompt)  # of one text at a time, which nothing pads
    for side in ("right", "left"):
        monkeypatch.setattr(made.tokenizer, "padding_side", side)
        found = made.encode(texts, prompt=prompt)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0, err_msg=side)


@in_full()
@pytest.mark.parametrize("pooling", ["lasttoken", "cls", "mean"])
def test_every_pooling_reads_what_the_stock_class_reads(family, pooling, tmp_path):
    encoder = load(save_bare(family, tmp_path), device="cpu", pooling=pooling)
    # a tokenizer that adds neither <s> nor </s> makes no token of it, which the stock class refuses
    texts = [text for text in random_texts(8) if encoder.tokenizer(text).input_ids]
    np.testing.assert_allclose(encoder.encode(texts), stock(encoder, texts), atol=TOLERANCE, rtol=0)


@in_full()
def test_a_pruned_last_block_gives_the_vectors_of_the_stock_class(family, tmp_path):
    base = load(save_bare(family, tmp_path / "base"), device="cpu")
    plan = PruningPlan(
        base=BaseIdentity.of(transformer_model(base), str(tmp_path / "base")),
        drop_mlp=(3,),
        drop_attention=(0,),
    )
    export(base, plan, tmp_path / "pruned")
    encoder = load(tmp_path / "pruned", device="cpu")
    texts = random_texts(8)
    expected = stock(encoder, texts, prompt=PROMPT)
    found = encoder.encode(texts, prompt=PROMPT)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_neither_call_size_nor_order_changes_a_vector(made):
    texts = random_texts()
    together = made.encode(texts, prompt=PROMPT)
    one_by_one = np.stack([made.encode(text, prompt=PROMPT) for text in texts])
    in_threes = np.concatenate(list(made.encode_stream(iter(texts), window=3, prompt=PROMPT)))
    backwards = made.encode(texts[::-1], prompt=PROMPT)[::-1]
    for other in (one_by_one, in_threes, backwards):
        np.testing.assert_allclose(other, together, atol=TOLERANCE, rtol=0)


def test_a_text_cut_at_the_limit_keeps_its_eos(tmp_path):
    encoder = load(save_bare("qwen3", tmp_path), device="cpu")
    seen = watch(encoder)
    encoder.encode("w1 " * 100)
    (ids,) = seen
    assert ids.shape == (1, 32) and ids[0, -1] == encoder.tokenizer.eos_token_id


@pytest.mark.parametrize("family", CAUSAL)
def test_a_prompt_is_run_once_for_all_texts(family, tmp_path):
    encoder = load(save_bare(family, tmp_path), device="cpu")
    seen = watch(encoder)
    encoder.encode(["w10 w11", "w12 w13", "w14 w15"], prompt=PROMPT)
    once, each = (tuple(ids.shape) for ids in seen)
    if family == "qwen2":  # a token for each character, no <s>, and all texts go on with w1
        assert (once, each) == ((1, 20), (3, 6))
    else:  # <s> and six words of the prompt once; then two words and </s> of each text
        assert (once, each) == ((1, 7), (3, 3))


@pytest.mark.parametrize(
    ("family", "options"),
    [("bert", {}), ("mistral", {"sliding_window": 8}), ("gemma2", {"sliding_window": 8})],
)
def test_a_prompt_is_run_with_each_text_where_its_keys_cannot_be_reused(family, options, tmp_path):
    encoder = load(save_bare(family, tmp_path, **options), device="cpu", pooling="lasttoken")
    seen = watch(encoder)
    texts = ["w10 w11", "w12 w13", "w14 w15"]
    vectors = encoder.encode(texts, prompt=PROMPT)
    assert [len(ids) for ids in seen] == [3]
    np.testing.assert_allclose(
        vectors, stock(encoder, texts, prompt=PROMPT), atol=TOLERANCE, rtol=0
    )


def test_a_text_that_is_only_the_shared_prefix_keeps_a_token(tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu")
    texts = ["w1 w2 w3 w4 w5", "w1 w2 w3 w4 w5 </s> w6", "w1 w2 w3 w4 w5 </s> w6 w7"]
    np.testing.assert_allclose(encoder.encode(texts), stock(encoder, texts), atol=TOLERANCE, rtol=0)


def test_padding_that_nobody_sees_is_no_reason_to_warn(tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(
        transformers.PreTrainedModel,
        "warn_if_padding_and_no_attention_mask",
        lambda model, *given: warned.append(given),
    )
    encoder = load(save_bare("gpt2", tmp_path), device="cpu")
    encoder.encode(["w1 w2 w3", "w4"], prompt=PROMPT)
    assert warned == []
    transformer_model(encoder)(input_ids=torch.tensor([[5, 0]]))
    assert len(warned) == 1


def test_equal_texts_run_once(made):
    seen = watch(made)
    vectors = made.encode(["w1 w2", "w3", "w1 w2", "w3", "w1 w2"])
    assert sum(len(ids) for ids in seen) == 2
    assert (vectors[0] == vectors[2]).all() and (vectors[1] == vectors[3]).all()
    assert (vectors[0] != vectors[1]).any()


def test_batches_stay_within_their_tokens_and_padding(made):
    seen = watch(made)
    made.batch_tokens, made.batch_padding = 64, 10
    try:
        made.encode(random_texts())
    finally:
        del made.batch_tokens, made.batch_padding
    assert len(seen) > 5
    for ids in seen:
        assert ids.numel() <= 64
        assert (ids == made.tokenizer.pad_token_id).sum() <= 10


def test_windows_are_put_together_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("effir_integrations.encoder.inference.WINDOW", 7)
    encoder = load(save_bare("qwen3", tmp_path), device="cpu")
    texts = random_texts()
    expected = stock(encoder, texts)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=TOLERANCE, rtol=0)
    assert WINDOW > 1000


def test_the_last_block_is_whole_again_afterwards(made):
    before = {name: len(x._forward_pre_hooks) for name, x in made.named_modules()}
    made.encode(random_texts(4))
    assert {name: len(x._forward_pre_hooks) for name, x in made.named_modules()} == before


@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_the_last_block_computes_its_mlp_for_one_token_of_each_text(family, tmp_path):
    encoder = load(save_bare(family, tmp_path), device="cpu", pooling="lasttoken")
    path = "layers.3.mlp.down_proj" if family == "qwen3" else "encoder.layer.3.output.dense"
    shapes = []
    transformer_model(encoder).get_submodule(path).register_forward_pre_hook(
        lambda module, inputs: shapes.append(inputs[0].shape)
    )
    encoder.encode(["w1 w2 w3", "w4 w5"])
    assert [tuple(shape) for shape in shapes] == [(2, 1, 48)]


def test_out_of_memory_halves_the_batches_says_so_once_and_loses_nothing(tmp_path, caplog):
    encoder = load(save_bare("qwen3", tmp_path), device="cpu")
    texts = [f"w{number} w{number + 1}" for number in range(50)]
    expected = encoder.encode(texts)

    def refuse(module, arguments, keywords):
        if keywords["input_ids"].numel() > 100:
            raise torch.OutOfMemoryError("out of memory")

    transformer_model(encoder).register_forward_pre_hook(refuse, with_kwargs=True)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=TOLERANCE, rtol=0)
    assert encoder.batch_tokens == 100
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory at 200 tokens in a batch; continuing with batch_tokens=100"
    ]
    encoder.encode(texts)
    assert len(caplog.records) == 1
    with pytest.raises(torch.OutOfMemoryError):
        transformer_model(encoder).register_forward_pre_hook(fail)
        encoder.encode(texts)


def fail(module, arguments):
    raise torch.OutOfMemoryError("out of memory")


def test_a_model_left_in_training_mode_is_put_right(tmp_path):
    encoder = load(save_bare("bert", tmp_path, hidden_dropout_prob=0.5), device="cpu")
    expected = encoder.encode(["w1 w2"])
    transformer_model(encoder).train()
    assert (encoder.encode(["w1 w2"]) == expected).all()


def test_token_embeddings_and_outputs_come_the_stock_way(made):
    tokens = made.encode(["w1 w2", "w3"], output_value="token_embeddings")
    assert [len(x) for x in tokens] == [len(x) for x in made.tokenizer(["w1 w2", "w3"]).input_ids]


def test_tokens_are_counted(tmp_path):
    encoder = load(save_bare("bert", tmp_path), device="cpu")
    encoder.encode(["w1 w2", "w3", "w3"])  # with <s>; equal texts count once
    assert encoder.tokens_encoded == 5


def watch(encoder: Encoder) -> list[torch.Tensor]:
    """Return a list that receives the ids of every forward pass."""
    seen: list[torch.Tensor] = []

    def record(module, arguments, keywords) -> None:
        seen.append(keywords["input_ids"])

    transformer_model(encoder).register_forward_pre_hook(record, with_kwargs=True)
    return seen


@pytest.fixture(params=["gpt2", "llama", "bert"])
def adds_nothing(request, tmp_path) -> Path:
    """Return a bare folder whose tokenizer adds no token to any text."""
    save_bare(request.param, tmp_path)
    tiny_tokenizer(adds_bos=False).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("pooling", ["lasttoken", "cls", "mean", "max", "weightedmean"])
@pytest.mark.parametrize("way", ["fast", "stock"])
def test_texts_of_no_token_are_zeros_in_any_company(adds_nothing, pooling, way, monkeypatch):
    encoder = load(adds_nothing, device="cpu", pooling=pooling)
    encoder[0].processor = tiny_tokenizer(adds_bos=False)  # that of last-token pooling adds an EOS
    if way == "stock":
        monkeypatch.setattr("effir_integrations.encoder.encoder.is_plain", lambda encoder: False)
    texts = ["", "w1 w2 w3", "  \n", "w4", ""]
    found = encoder.encode(texts)
    assert not found[[0, 2, 4]].any()
    expected = stock(encoder, ["w1 w2 w3", "w4"])
    np.testing.assert_allclose(found[[1, 3]], expected, atol=TOLERANCE, rtol=0)
    assert encoder.encode(["", " "]).shape == (2, 32) and not encoder.encode("").any()
    assert encoder.encode([""], truncate_dim=8).shape == (1, 8)
    assert encoder.encode([""], prompt="w1 ").any()
