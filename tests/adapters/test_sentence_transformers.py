"""An `Encoder` works wherever a `SentenceTransformer` is expected, and gives what that gives."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from pruned_folder import PROMPTS, TEXTS, plan_for, sentences, train, write_pruned
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    TripletEvaluator,
)
from sentence_transformers.util import mine_hard_negatives, paraphrase_mining, semantic_search
from tiny import save_bare, tiny_tokenizer

from effir_integrations import Encoder, export, load
from effir_integrations.encoder.inference import TEXT_ONLY


@pytest.fixture(scope="module", params=["qwen3", "bert"])
def folder(request, tmp_path_factory):
    """A pruned model: of a decoder with a last token to read, and of an encoder with a mean."""
    return write_pruned(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def encoder(folder):
    return load(folder, device="cpu")


@pytest.fixture
def stock(folder):
    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt_name": "query"},
        {"prompt": "w9 w8 "},
        {"convert_to_tensor": True},
        {"normalize_embeddings": True, "truncate_dim": 8},
        {"batch_size": 1},
        {"processing_kwargs": {"text": {"max_length": 4, "truncation": True}}},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_encode_gives_what_the_stock_class_gives(encoder, stock, options):
    found, expected = encoder.encode(TEXTS, **options), stock.encode(TEXTS, **options)
    assert type(found) is type(expected) and found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-6)
    one = encoder.encode(TEXTS[0], **options)
    np.testing.assert_allclose(one, expected[0], atol=1e-6)
    assert type(encoder.encode([], **options)) is type(stock.encode([], **options))


@pytest.mark.parametrize("output_value", ["token_embeddings", None])
def test_outputs_other_than_vectors_are_those_of_the_stock_class(encoder, stock, output_value):
    found = encoder.encode(TEXTS, output_value=output_value)
    expected = stock.encode(TEXTS, output_value=output_value)
    for ours, theirs in zip(found, expected, strict=True):
        if output_value is None:
            assert ours.keys() == theirs.keys()
            ours, theirs = ours["sentence_embedding"], theirs["sentence_embedding"]
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantised_vectors_are_those_of_the_stock_class(encoder, stock, precision):
    found = encoder.encode(sentences(), precision=precision)
    expected = stock.encode(sentences(), precision=precision)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    # a value on the edge between two steps may fall to either side
    assert (found != expected).mean() < 0.01


@pytest.mark.parametrize("role", ["query", "document"])
def test_queries_and_documents_take_the_fast_way(encoder, stock, role):
    found = getattr(encoder, f"encode_{role}")(TEXTS)
    np.testing.assert_allclose(found, getattr(stock, f"encode_{role}")(TEXTS), atol=1e-6)
    # only batches cut by tokens are counted
    assert encoder.tokens_encoded > 0


def test_lengths_of_their_own_for_queries_are_kept(encoder, stock):
    for model in (encoder, stock):
        model[0].query_length = 5
    queries = ["w1 w2 w3 w4 w5 w6 w7 w8"]
    np.testing.assert_allclose(
        encoder.encode_query(queries), stock.encode_query(queries), atol=1e-6
    )


def chain(*others):
    """Modules after a transformer, and the transformer."""

    def make(folder):
        # a copy each, so that random weights are the same in both classes
        return [first_module(folder), *others]

    return make


def first_module(folder, **options):
    return modules.Transformer(
        str(folder), modality_config=TEXT_ONLY, module_output_name="token_embeddings", **options
    )


def routed(folder):
    routes = {
        "query": [first_module(folder), modules.Pooling(32, pooling_mode="mean")],
        "document": [first_module(folder), modules.Pooling(32, pooling_mode="lasttoken")],
    }
    return [modules.Router(routes, default_route="document")]


def weighted_layers(folder):
    first = first_module(folder, config_kwargs={"output_hidden_states": True})
    weigh = modules.WeightedLayerPooling(32, num_hidden_layers=4, layer_start=1)
    return [first, weigh, modules.Pooling(32, pooling_mode="mean")]


def weighted_words(folder):
    first = first_module(folder)
    weights = modules.WordWeights(list(first.tokenizer.get_vocab()), {"w1": 2.0, "w2": 0.5})
    return [first, weights, modules.Pooling(32, pooling_mode="mean")]


class Louder(modules.Transformer):
    """A transformer with a forward pass of its own."""

    def forward(self, features, **kwargs):
        features = super().forward(features, **kwargs)
        return {**features, "token_embeddings": features["token_embeddings"] * 2}


def louder(folder):
    first = Louder(str(folder), modality_config=TEXT_ONLY, module_output_name="token_embeddings")
    return [first, modules.Pooling(32, pooling_mode="lasttoken")]


def unknown_family(folder):
    config = transformers.ElectraConfig(
        vocab_size=64,
        embedding_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    place = folder.parent / "electra"
    transformers.ElectraModel(config).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return [first_module(place), modules.Pooling(32, pooling_mode="cls")]


CHAINS = {
    "dense": chain(modules.Pooling(32, pooling_mode="mean"), modules.Dense(32, 16)),
    "layer-norm": chain(modules.Pooling(32, pooling_mode="lasttoken"), modules.LayerNorm(32)),
    "dropout": chain(modules.Pooling(32, pooling_mode="cls"), modules.Dropout(0.5)),
    "two-poolings": chain(modules.Pooling(32, pooling_mode=("cls", "mean"))),
    # the next four read more than the vectors of tokens, or read padding as well
    "convolution": chain(
        modules.CNN(32), modules.Pooling(3 * 256, pooling_mode="mean"), modules.Normalize()
    ),
    "layers": weighted_layers,
    "words": weighted_words,
    "own-forward": louder,
    "router": routed,
    "unknown-family": unknown_family,
    "no-transformer": lambda _: [modules.StaticEmbedding(tiny_tokenizer(), embedding_dim=16)],
}


@pytest.mark.parametrize("name", CHAINS)
def test_any_chain_of_modules_gives_the_vectors_of_the_stock_class(name, tmp_path):
    made = CHAINS[name](save_bare("qwen3", tmp_path / "bare"))
    prompts = {"query": "w1 w2 "}
    ours = Encoder(modules=copy.deepcopy(made), device="cpu", prompts=prompts)
    theirs = SentenceTransformer(modules=made, device="cpu", prompts=prompts)
    texts = ["w1 w2 w3", "w4 " * 60, "w9 w7"]
    for method in ("encode", "encode_query", "encode_document"):
        expected = getattr(theirs, method)(texts)
        np.testing.assert_allclose(getattr(ours, method)(texts), expected, atol=2e-6)


def test_evaluators_report_what_they_report_of_the_stock_class(encoder, stock):
    generator = random.Random(3)
    texts, others, thirds = sentences(24, 1), sentences(24, 2), sentences(24, 3)
    documents = {f"d{row}": text for row, text in enumerate(sentences(40, 4))}
    queries = {f"q{row}": f"{documents[f'd{row}']} {text}" for row, text in enumerate(texts)}
    relevant = {query: {f"d{generator.randrange(40)}", f"d{query[1:]}"} for query in queries}
    evaluators = [
        InformationRetrievalEvaluator(
            queries, documents, relevant, query_prompt_name="query", corpus_prompt_name="document"
        ),
        EmbeddingSimilarityEvaluator(texts, others, [generator.random() for _ in texts]),
        EmbeddingSimilarityEvaluator(
            texts, others, [generator.random() for _ in texts], precision="ubinary", truncate_dim=16
        ),
        TripletEvaluator(texts, others, thirds),
    ]
    for evaluator in evaluators:
        found, expected = encoder.evaluate(evaluator), stock.evaluate(evaluator)
        assert found == pytest.approx(expected, abs=1e-6)
        assert len({round(value, 3) for value in found.values()} - {0, 1}) > 0


def test_search_tools_find_what_they_find_with_the_stock_class(encoder, stock):
    texts = sentences(20)
    found = semantic_search(
        encoder.encode_query(texts[:5], convert_to_tensor=True),
        encoder.encode_document(texts, convert_to_tensor=True),
        top_k=3,
    )
    expected = semantic_search(
        stock.encode_query(texts[:5], convert_to_tensor=True),
        stock.encode_document(texts, convert_to_tensor=True),
        top_k=3,
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]
    pairs = [paraphrase_mining(model, texts)[:10] for model in (encoder, stock)]
    assert [pair[1:] for pair in pairs[0]] == [pair[1:] for pair in pairs[1]]
    vectors = encoder.encode(texts)
    torch.testing.assert_close(
        encoder.similarity(vectors, vectors), stock.similarity(vectors, vectors)
    )


def test_hard_negatives_are_those_mined_with_the_stock_class(encoder, stock):
    pairs = Dataset.from_dict({"anchor": sentences(20, 1), "positive": sentences(20, 2)})
    options = {"num_negatives": 2, "use_faiss": False, "verbose": False}
    found, expected = (mine_hard_negatives(pairs, x, **options) for x in (encoder, stock))
    assert found.to_list() == expected.to_list()


@pytest.mark.parametrize("folder", ["qwen3"], indirect=True)
def test_a_pool_of_processes_gives_the_same_vectors(encoder):
    texts = sentences(20)
    expected = encoder.encode_query(texts)
    pool = encoder.start_multi_process_pool(["cpu"])
    try:
        found = encoder.encode_query(texts, pool=pool, chunk_size=5)
        tensor = encoder.encode(texts, prompt_name="query", pool=pool, convert_to_tensor=True)
        quantised = encoder.encode_query(texts, pool=pool, precision="ubinary")
    finally:
        encoder.stop_multi_process_pool(pool)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(tensor, expected, atol=1e-6)
    assert quantised.dtype == np.uint8 and quantised.shape == (20, 4)


def test_the_stock_trainer_trains_an_encoder(encoder, tmp_path):
    before = encoder.encode(TEXTS)
    trainer = train(encoder, tmp_path)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    after = encoder.encode(TEXTS)
    assert not encoder.training and not encoder[0].model.training
    assert np.isfinite(after).all() and np.abs(after - before).max() > 1e-3
    stock = SentenceTransformer(modules=list(encoder), device="cpu")
    np.testing.assert_allclose(after, stock.encode(TEXTS), atol=1e-6)


def test_the_trainer_loads_its_best_checkpoint_again(encoder, tmp_path):
    steps = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 4, "eval_steps": 4}
    trainer = train(
        encoder,
        tmp_path,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        # the first checkpoint is the best, so that loading it changes something
        greater_is_better=True,
        **steps,
    )
    best = load(trainer.state.best_model_checkpoint, device="cpu")
    last = load(tmp_path / "checkpoint-12", device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS), best.encode(TEXTS), atol=1e-6)
    assert np.abs(best.encode(TEXTS) - last.encode(TEXTS)).max() > 1e-4


def test_an_adapter_is_trained_and_saved_by_the_name_of_its_base(encoder, folder, tmp_path):
    peft = pytest.importorskip("peft")
    base = load(folder.parent / "base", device="cpu")
    exported = export(base, plan_for(base), tmp_path / "pruned")
    # the folder that was written under another name until it was whole
    assert exported[0].model.name_or_path == str(tmp_path / "pruned")
    exported.add_adapter(
        peft.LoraConfig(
            target_modules=["q_proj", "query"],
            init_lora_weights=False,
            task_type="FEATURE_EXTRACTION",
        )
    )
    vectors = exported.encode(TEXTS)
    assert np.abs(vectors - encoder.encode(TEXTS)).max() > 1e-4
    exported.save_pretrained(str(tmp_path / "adapter"))
    again = SentenceTransformer(str(tmp_path / "adapter"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), vectors, atol=1e-6)


def test_the_trainer_loads_the_best_adapter_again(encoder, tmp_path):
    peft = pytest.importorskip("peft")
    encoder.add_adapter(
        peft.LoraConfig(target_modules=["q_proj", "query"], task_type="FEATURE_EXTRACTION")
    )
    trainer = train(
        encoder,
        tmp_path,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=4,
        eval_steps=4,
    )
    assert any("lora" in name for name in encoder.state_dict())
    best = load(trainer.state.best_model_checkpoint, device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS), best.encode(TEXTS), atol=1e-5)


def test_a_cut_dimension_is_used_and_saved(folder, tmp_path):
    cut = Encoder(str(folder), truncate_dim=8, device="cpu")
    assert cut.encode(TEXTS).shape == (4, 8) and cut.get_embedding_dimension() == 8
    with cut.truncate_embeddings(4):
        assert cut.encode_query(TEXTS).shape == (4, 4)
    whole = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(cut.encode(TEXTS), whole[:, :8], atol=1e-6)


def test_a_saved_encoder_is_loaded_by_the_stock_class(encoder, stock, tmp_path):
    encoder.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert np.array_equal(again.encode(TEXTS), stock.encode(TEXTS))
    assert again.prompts == PROMPTS and again.max_seq_length == encoder.max_seq_length
    assert again.similarity_fn_name == encoder.similarity_fn_name
