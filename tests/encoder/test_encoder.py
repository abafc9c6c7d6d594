"""Loading: what a folder says is kept, what is missing is said, no text breaks an encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from tiny import save_bare, tiny_model, tiny_tokenizer

from effir_integrations import encode_to_file
from effir_integrations.data.text import clean_text
from effir_integrations.encoder.encoder import token_batches
from effir_integrations.encoder.loading import load
from effir_integrations.encoder.sources import find_architecture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_bare("bert", tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\ud800",
        "w1 \udfff w2",
        "w1 " * 33_333,
        "w" * 100_000,
        "\x00",
        "😀",
        "\ud83d\ude00",
    ],
    ids=["empty", "blank", "high", "low", "long", "one-word", "nul", "emoji", "pair"],
)
def test_no_text_breaks_an_encoder(folder, text):
    vectors = load(folder, device="cpu").encode([text, "w1"])
    assert vectors.shape == (2, 32)
    assert bool(np.isfinite(vectors).all())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_clean_text_keeps_what_is_valid():
    assert clean_text("plain") == "plain"
    assert clean_text("Größe 大") == "Größe 大"
    assert clean_text("\ud83d\ude00") == "😀"
    assert clean_text("a\ud800b") == "a\ufffdb"


def test_batches_hold_every_text_once_within_the_token_budget(folder):
    encoder = load(folder, device="cpu")
    texts = ["w1 " * length for length in (1, 30, 2, 17, 9, 200, 3)] * 300
    seen = 0
    for batch in token_batches(encoder, texts, batch_tokens=128):
        rows, tokens = batch["input_ids"].shape
        assert rows * tokens <= 128
        seen += rows
    assert seen == len(texts)


def test_batches_respect_the_length_and_leave_the_encoder_as_it_was(folder):
    encoder = load(folder, device="cpu")
    batches = list(token_batches(encoder, ["w1 " * 50], max_length=10))
    assert batches[0]["input_ids"].shape == (1, 10)
    assert encoder.max_seq_length == 32


def test_the_dtype_is_the_one_asked_for(folder):
    assert load(folder).dtype == torch.float32
    assert load(folder, dtype="bf16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dtype 'int3' is not known; choose from auto, fp32"):
        load(folder, dtype="int3")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        load(tmp_path / "absent")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither config\.json nor modules\.json"):
        load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    save_bare("bert", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="only safetensors weights are read"):
        load(tmp_path)


def test_a_truncated_shard_is_refused(tmp_path):
    save_bare("bert", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{weights} is truncated or .*not fully covered.*again$"):
        load(tmp_path)


def test_a_header_that_is_cut_is_refused(tmp_path):
    save_bare("bert", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(
        FileNotFoundError, match=f"lacks 1 of {len(shards)} shards: {shards[1].name}"
    ):
        load(tmp_path)


def test_an_unknown_family_is_refused_by_its_config_alone(tmp_path):
    model = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'t5' is not supported.*choose a model of one of: bert"):
        find_architecture(tmp_path)


def test_a_decoder_without_eos_is_refused(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer(eos=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no EOS token, which last-token pooling needs"):
        load(tmp_path)


def test_a_decoder_without_pad_token_gets_one(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer(pad=False).save_pretrained(tmp_path)
    encoder = load(tmp_path, device="cpu")
    assert encoder.tokenizer.pad_token == "</s>"
    together = encoder.encode(["w1 w2 w3 w4", "w5"])
    np.testing.assert_allclose(encoder.encode(["w5"])[0], together[1], atol=1e-5)


def test_pooling_of_a_finished_folder_cannot_be_overruled(minilm):
    with pytest.raises(ValueError, match="brings its own pooling"):
        load(minilm, pooling="cls")


def test_minilm_keeps_its_vectors(minilm):
    from sentence_transformers import SentenceTransformer

    texts = ["a first text", "and a second, longer one"]
    stock = SentenceTransformer(str(minilm), device="cpu").encode(texts)
    assert np.array_equal(load(minilm, device="cpu").encode(texts), stock)


@pytest.fixture(scope="module")
def encoder(folder):
    return load(folder, device="cpu")


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        (None, "there is nothing to encode: inputs is None"),
        (b"w1", r"text 0 of 1 is bytes \(b'w1'\), and only strings can be encoded; decode bytes"),
        (7, r"text 0 of 1 is int \(7\)"),
        (["w1", None], r"text 1 of 2 is NoneType \(None\).*leave missing texts out"),
        (["w1", float("nan")], r"text 1 of 2 is float \(nan\)"),
        ([["w1", "w2"]], "text 0 of 1 is list"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(encoder, inputs, error):
    with pytest.raises(ValueError, match=error):
        encoder.encode(inputs)


def test_an_empty_list_gives_no_vectors(encoder):
    assert len(encoder.encode([])) == 0
    assert list(encoder.encode_stream(iter([]))) == []


def test_special_tokens_in_a_text_are_encoded(encoder):
    vectors = encoder.encode(["<s> </s> <pad> <unk>", "<pad>", "</s>"])
    assert bool(np.isfinite(vectors).all())


@pytest.mark.parametrize("dimension", [0, 33, -1])
def test_a_dimension_that_the_vectors_do_not_have_is_refused(encoder, dimension):
    with pytest.raises(ValueError, match=f"truncate_dim={dimension}, but the vectors have 32"):
        encoder.encode("w1", truncate_dim=dimension)


def test_vectors_are_truncated_then_normalised(encoder):
    whole = encoder.encode(["w1 w2"])
    cut = encoder.encode(["w1 w2"], truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8]), atol=1e-6)


def test_a_limit_is_that_of_one_call(encoder):
    texts, cut = ["w1 w2 w3 w4 w5", "w6 " * 20], ["w1 w2 w3", "w6 w6 w6"]
    # BOS and three words are four tokens
    expected, whole = encoder.encode(cut), encoder.encode(texts)
    for found in (
        encoder.encode(texts, max_length=4),
        encoder.encode_document(texts, max_length=4),
        encoder.encode(texts, processing_kwargs={"text": {"max_length": 4}}),
        next(encoder.encode_stream(texts, max_length=4)),
        np.stack([each["sentence_embedding"] for each in outputs(encoder, texts, max_length=4)]),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert encoder.max_seq_length == 32
    np.testing.assert_array_equal(encoder.encode(texts), whole)
    np.testing.assert_array_equal(encoder.encode(texts, max_length=100), whole)


def outputs(encoder, texts, **options):
    """Return what the stock way gives, all outputs of the modules."""
    return encoder.encode(texts, output_value=None, **options)


def test_a_limited_call_runs_the_fast_way(encoder):
    before = encoder.tokens_encoded
    encoder.encode(["w1 w2 w3 w4 w5", "w6 " * 20], max_length=4)
    assert encoder.tokens_encoded == before + 8


def test_a_folder_that_sets_how_texts_are_tokenised_is_followed(folder, tmp_path):
    encoder = load(folder, device="cpu")
    encoder[0].processing_kwargs = {"text": {"max_length": 4}}
    encoder.save(str(tmp_path))
    texts = ["w1 w2 w3 w4 w5", "w6 " * 20]
    expected = load(folder, device="cpu", max_length=4).encode(texts)
    np.testing.assert_allclose(load(tmp_path, device="cpu").encode(texts), expected, atol=1e-6)


def test_an_unknown_prompt_name_is_refused(encoder):
    with pytest.raises(ValueError, match="qurey"):
        encoder.encode("w1", prompt_name="qurey")


def test_a_megabyte_of_text_is_cut(encoder):
    texts = ["w1 " * 350_000]
    np.testing.assert_allclose(encoder.encode(texts), encoder.encode(["w1 " * 40]), atol=1e-6)


def test_texts_that_arrive_one_by_one_are_read_no_further_than_a_window(encoder):
    read = []

    def texts():
        for number in range(10):
            read.append(number)
            yield f"w{number}"

    stream = encoder.encode_stream(texts(), window=4)
    assert next(stream).shape == (4, 32) and len(read) == 4
    assert [len(part) for part in stream] == [4, 2]
    with pytest.raises(ValueError, match="window=0 must be at least 1"):
        next(encoder.encode_stream([], window=0))


def test_a_corpus_goes_to_a_file(encoder, tmp_path):
    pairs = [(f"d{number}", f"w{number} w1") for number in range(9)]
    encoded = encode_to_file(encoder, pairs, tmp_path / "vectors.npy", window=4)
    expected = encoder.encode([text for _, text in pairs])
    np.testing.assert_allclose(np.load(encoded.path), expected, atol=1e-6)
    assert encoded.ids_path.read_text().split() == [identifier for identifier, _ in pairs]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_worker_processes_give_the_same_vectors(folder, workers):
    encoder = load(folder, device="cpu")
    texts = [f"w{number}" for number in range(20)]
    found = encoder.encode(texts, device=["cpu"] * workers, chunk_size=5)
    np.testing.assert_allclose(found, encoder.encode(texts), atol=1e-6)


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same_vectors_in_few_shapes(folder):
    expected = load(folder, device="cpu").encode(["w1 w2", "w3", "w4 " * 40])
    encoder = load(folder, device="cpu", compile=True)
    np.testing.assert_allclose(encoder.encode(["w1 w2", "w3", "w4 " * 40]), expected, atol=1e-6)
    assert encoder.shapes.lengths(32) == [32]
