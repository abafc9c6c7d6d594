"""The runtime without torch takes what `SentenceTransformer` takes, and needs little."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from converted import PROMPTS, TEXTS, least_cosine, write_encoder

import effir_integrations
from effir_integrations import convert, load

pytest.importorskip("onnxscript")
from effir_integrations.onnx import OnnxEncoder

LEAST = 0.99999


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An encoder, and what `convert` made of it."""
    place = tmp_path_factory.mktemp("onnx")
    folder = write_encoder("qwen3", place)
    convert(folder, place / "out", "onnx")
    return folder, place / "out"


@pytest.fixture(scope="module")
def stock(folders):
    return load(folders[0], device="cpu")


@pytest.fixture(scope="module")
def encoder(folders):
    return OnnxEncoder(folders[1], threads=1)


def test_it_says_what_the_model_is(encoder):
    assert encoder.dimension == 32
    assert encoder.max_length == 32
    assert encoder.prompts == PROMPTS
    assert encoder.default_prompt_name is None


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": "w9 "},
        {"prompt": ""},
        {"prompt_name": "query"},
        {"truncate_dim": 5},
    ],
    ids=str,
)
def test_calls_give_what_the_folder_gives(method, options, encoder, stock):
    expected = getattr(stock, method)(TEXTS, **options)
    found = getattr(encoder, method)(TEXTS, **options)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert least_cosine(found, expected) >= LEAST


def test_vectors_are_cut_and_then_scaled(encoder, stock):
    expected = stock.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    found = encoder.encode(TEXTS, truncate_dim=5, normalize=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_text_is_one_vector(encoder, stock):
    assert encoder.encode("w1 w2").shape == (32,)
    np.testing.assert_allclose(encoder.encode("w1 w2"), stock.encode("w1 w2"), atol=1e-5)


def test_nothing_is_no_row(encoder):
    assert encoder.encode([]).shape == (0, 32)


@pytest.mark.parametrize("wrap", [tuple, np.array, pd.Series, lambda x: dict.fromkeys(x).keys()])
def test_what_holds_texts_in_an_order_is_read_in_it(wrap, encoder):
    np.testing.assert_array_equal(encoder.encode(wrap(TEXTS)), encoder.encode(TEXTS))


def test_lone_surrogates_are_no_error(encoder, stock):
    texts = ["w1 \ud800 w2", "\U0001f600 w1"]
    np.testing.assert_allclose(encoder.encode(texts), stock.encode(texts), atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_batches_change_nothing_and_keep_the_order(batch_tokens, encoder):
    texts = [" ".join(f"w{place}" for _ in range(1 + place % 9)) for place in range(50)]
    alone = np.stack([encoder.encode(text) for text in texts])
    found = encoder.encode([*texts, *texts[:3]], batch_tokens=batch_tokens)
    np.testing.assert_allclose(found, [*alone, *alone[:3]], atol=1e-5)


def test_batches_stay_within_their_budget(encoder, monkeypatch):
    shapes = []
    run = encoder._run

    def recorded(inputs):
        shapes.append(inputs["input_ids"].shape)
        return run(inputs)

    monkeypatch.setattr(encoder, "_run", recorded)
    encoder.encode([" ".join(["w1"] * length) for length in range(1, 25)], batch_tokens=60)
    assert len(shapes) > 1
    assert all(rows * tokens <= 60 or rows == 1 for rows, tokens in shapes)


def test_threads_share_an_encoder(encoder):
    expected = encoder.encode(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: encoder.encode(TEXTS), range(8)):
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["w1", 3], {}, "text 1 of 2 is int"),
        (None, {}, "inputs is None"),
        ({"w1"}, {}, "has no order"),
        (iter(["w1"]), {}, "read only once"),
        (b"w1", {}, "text 0 of 1 is bytes"),
        (["w1"], {"prompt_name": "passage"}, "prompt_name='passage' is not known"),
        (["w1"], {"truncate_dim": 33}, "choose 1 to 32"),
        (["w1"], {"truncate_dim": 0}, "choose 1 to 32"),
        (["w1"], {"batch_tokens": 0}, "at least 1"),
    ],
)
def test_what_it_cannot_take_is_named(texts, options, message, encoder):
    with pytest.raises(ValueError, match=message):
        encoder.encode(texts, **options)


def test_a_prompt_goes_before_its_name(encoder, caplog):
    with caplog.at_level(logging.WARNING):
        found = encoder.encode(TEXTS, prompt="w9 ", prompt_name="query")
    np.testing.assert_array_equal(found, encoder.encode(TEXTS, prompt="w9 "))
    assert "prompt_name='query' is ignored" in caplog.text


def test_a_folder_that_is_none_is_refused(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="--to onnx"):
        OnnxEncoder(folders[0])
    with pytest.raises(FileNotFoundError, match="--to onnx"):
        OnnxEncoder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="threads=0"):
        OnnxEncoder(folders[1], threads=0)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("onnx/model.onnx", "no graph", "cannot be opened"),
        ("tokenizer.json", "{", "is no tokenizer"),
        ("tokenizer_config.json", "[]", "holds no JSON object"),
        ("tokenizer_config.json", '{"pad_token": "<pad>"}', "model_max_length=0"),
        (
            "tokenizer_config.json",
            '{"pad_token": "<none>", "model_max_length": 8}',
            "has not the pad token",
        ),
        ("config_sentence_transformers.json", '{"prompts": 3}', "prompts=3 is not allowed"),
    ],
)
def test_damaged_files_are_named(file, content, message, folders, tmp_path):
    shutil.copytree(folders[1], tmp_path / "out")
    (tmp_path / "out" / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        OnnxEncoder(tmp_path / "out")


ALONE = """
import json, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "sentence_transformers", "onnx"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Refused())
from effir_integrations.onnx import OnnxEncoder

encoder = OnnxEncoder(sys.argv[1])
vectors = encoder.encode_query(["w1 w2", "w3"], normalize=True)
print(json.dumps({"vectors": vectors.tolist(), "modules": sorted(sys.modules)}))
"""


def test_it_needs_neither_torch_nor_transformers(folders, encoder):
    environment = {**os.environ, "PYTHONPATH": str(Path(effir_integrations.__file__).parents[1])}
    line = [sys.executable, "-c", ALONE, str(folders[1])]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    loaded = {name.split(".")[0] for name in told["modules"]}
    assert not loaded & {"torch", "transformers", "sentence_transformers", "safetensors", "scipy"}
    expected = encoder.encode_query(["w1 w2", "w3"], normalize=True)
    np.testing.assert_allclose(told["vectors"], expected, atol=1e-5)
