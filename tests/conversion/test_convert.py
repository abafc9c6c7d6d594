"""`convert` writes a folder that stands alone, or nothing, and says why."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from converted import PROMPTS, TEXTS, least_cosine, write_encoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling, WordWeights
from torch import nn
from verbs import effir, effir_json, refused

from effir_integrations import convert, load
from effir_integrations.conversion import onnx_file, to_gguf, to_onnx
from effir_integrations.encoder.history import read_history

pytest.importorskip("onnxscript")
import onnx

from effir_integrations.onnx import OnnxEncoder

LEAST = 0.99999


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny encoder, of which weights are the most."""
    place = tmp_path_factory.mktemp("models")
    return write_encoder("llama", place, hidden_size=128, intermediate_size=256)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """An encoder of one layer, to change what stands behind it."""
    return write_encoder("llama", tmp_path_factory.mktemp("shallow"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def outs(folder, tmp_path_factory):
    """Dtype -> what was written, and its folder."""
    place = tmp_path_factory.mktemp("converted")
    return {
        dtype: (convert(folder, place / dtype, "onnx", dtype=dtype), place / dtype)
        for dtype in ("fp32", "fp16", "int8")
    }


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_dtype_is_checked_and_says_how_near_it_is(outs, folder):
    expected = load(folder, device="cpu").encode(TEXTS)
    for dtype, (done, out) in outs.items():
        assert done.cosine >= to_onnx.LEAST[dtype]
        assert done.unchecked == ""
        assert done.file == "onnx/model.onnx"
        assert done.dimension == 128
        assert done.max_length == 32
        found = OnnxEncoder(out, threads=1).encode(TEXTS)
        assert least_cosine(found, expected) >= to_onnx.LEAST[dtype]


def test_narrower_weights_make_smaller_files(outs):
    sizes = {dtype: (out / done.file).stat().st_size for dtype, (done, out) in outs.items()}
    assert sizes["int8"] < sizes["fp16"] < 0.65 * sizes["fp32"]


def test_the_graph_takes_ids_and_mask_of_any_size(outs):
    model = onnx.load(str(outs["fp32"][1] / "onnx" / "model.onnx"))
    shapes = {}
    for one in (*model.graph.input, *model.graph.output):
        shapes[one.name] = [x.dim_param or x.dim_value for x in one.type.tensor_type.shape.dim]
    assert shapes == {
        "input_ids": ["batch", "tokens"],
        "attention_mask": ["batch", "tokens"],
        "sentence_embedding": ["batch", 128],
    }
    assert model.ir_version <= 10
    assert [x.version for x in model.opset_import if x.domain == ""] == [18]
    onnx.checker.check_model(model)


def test_the_graph_tells_nothing_of_this_machine(outs):
    content = (outs["fp32"][1] / "onnx" / "model.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path(torch.__file__).parents[1]).encode() not in content


def test_what_engines_read_lies_beside_the_graph(outs):
    out = outs["fp32"][1]
    tokens = read(out / "tokenizer_config.json")
    assert tokens["model_max_length"] == 32
    assert tokens["pad_token"] == "<pad>"
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast"
    tokenizer = read(out / "tokenizer.json")
    assert tokenizer["truncation"] is None and tokenizer["padding"] is None
    specials = read(out / "special_tokens_map.json")
    assert specials["eos_token"]["content"] == "</s>"
    config = read(out / "config.json")
    assert config["architectures"] == ["LlamaModel"]
    assert (config["model_type"], config["pad_token_id"]) == ("llama", 0)
    assert {"hidden_size", "num_hidden_layers", "max_position_embeddings"} <= config.keys()
    pooling = read(out / "1_Pooling" / "config.json")
    assert pooling["pooling_mode"] == "lasttoken"
    assert pooling["pooling_mode_lasttoken"] is True
    assert pooling["pooling_mode_cls_token"] is pooling["pooling_mode_mean_tokens"] is False
    assert [x["type"].rpartition(".")[2] for x in read(out / "modules.json")] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]
    assert read(out / "sentence_bert_config.json")["max_seq_length"] == 32
    assert read(out / "config_sentence_transformers.json")["prompts"] == PROMPTS


def test_the_card_keeps_the_licence_and_shows_the_prompts(outs):
    card = (outs["int8"][1] / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    assert "| query | `'w50 w51 w52 '` |" in card
    assert "int8 weights" in card
    assert f"{outs['int8'][0].cosine:.6f}" in card
    for engine in ("OnnxEncoder", "onnxruntime", "fastembed", "text-embeddings-router"):
        assert engine in card


def test_the_code_of_the_card_runs(outs, folder):
    card = (outs["fp32"][1] / "README.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in card.split("```python\n")[1:]]
    runtime = next(block for block in blocks if "session.run" in block)
    scope: dict[str, object] = {}
    exec(runtime.replace("FOLDER", str(outs["fp32"][1])), scope)  # noqa: S102
    expected = load(folder, device="cpu").encode_query(["how do plants make sugar?"])
    np.testing.assert_allclose(scope["vectors"], expected, atol=1e-5)
    ours = next(block for block in blocks if "effir_integrations" in block)
    exec(ours.replace("FOLDER", str(outs["fp32"][1])), scope)  # noqa: S102


def test_the_history_goes_on(outs, folder):
    history = read_history(outs["fp16"][1])
    assert history["made_by"][-1]["stage"] == "convert"
    assert history["made_by"][-1]["config"] == {"to": "onnx", "dtype": "fp16"}
    assert history["family"] == "llama"


def made_of(folder: Path, place: Path, *modules: nn.Module, **options) -> Path:
    """Write an encoder with other modules behind the transformer."""
    first = load(folder, device="cpu")[0]
    model = SentenceTransformer(modules=[first, *modules], device="cpu", **options)
    model.save_pretrained(str(place), create_model_card=False)
    return place


ALL_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def test_poolings_and_heads_are_in_the_graph(shallow, tmp_path):
    place = made_of(
        shallow,
        tmp_path / "heads",
        Pooling(32, ALL_MODES),
        LayerNorm(6 * 32),
        Dense(6 * 32, 24),
        Dense(24, 20, bias=False, activation_function=nn.Identity()),
        Normalize(),
    )
    encoder = load(place, device="cpu")
    done = convert(place, tmp_path / "out", "onnx")
    assert done.cosine >= LEAST
    assert done.dimension == 20
    converted = OnnxEncoder(tmp_path / "out", threads=1)
    ids = converted.token_ids(TEXTS)
    expected = np.stack([encoder.encode(text) for text in TEXTS])
    for side in ("right", "left"):
        np.testing.assert_allclose(converted.embed_ids(ids, padding_side=side), expected, atol=2e-5)


def test_pooling_that_leaves_the_prompt_out_takes_its_length(shallow, tmp_path):
    modes = tuple(mode for mode in ALL_MODES if mode != "weightedmean")
    place = made_of(
        shallow, tmp_path / "left", Pooling(32, modes, include_prompt=False), prompts=PROMPTS
    )
    encoder = load(place, device="cpu")
    done = convert(place, tmp_path / "out", "onnx")
    assert done.cosine >= LEAST
    converted = OnnxEncoder(tmp_path / "out", threads=1)
    for method in ("encode", "encode_query"):
        expected = np.stack([getattr(encoder, method)(text) for text in TEXTS])
        np.testing.assert_allclose(getattr(converted, method)(TEXTS), expected, atol=2e-5)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "prompt_length" in card and "TextEmbedding" not in card


def test_a_prompt_that_counts_by_its_place_is_refused(shallow, tmp_path):
    place = made_of(shallow, tmp_path / "left", Pooling(32, "weightedmean", include_prompt=False))
    message = refused("convert", place, tmp_path / "out", "--to", "onnx")
    assert "weightedmean pooling that leaves the prompt out" in message


def test_a_module_that_no_graph_holds_is_named(shallow, tmp_path):
    vocabulary = [f"w{number}" for number in range(64)]
    place = made_of(
        shallow,
        tmp_path / "words",
        WordWeights(vocabulary, dict.fromkeys(vocabulary, 0.5)),
        Pooling(32),
    )
    message = refused("convert", place, tmp_path / "out", "--to", "onnx")
    assert "has the module WordWeights" in message
    assert not (tmp_path / "out").exists()


def test_frequencies_that_go_by_the_length_are_refused_where_texts_are_that_long(tmp_path):
    rope = {
        "rope_type": "longrope",
        "factor": 8.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 5.0, 9.0],
        "original_max_position_embeddings": 16,
        "rope_theta": 100.0,
        "partial_rotary_factor": 1.0,
    }
    place = write_encoder("llama", tmp_path, num_hidden_layers=1, rope_parameters=rope)
    message = refused("convert", place, tmp_path / "out", "--to", "onnx")
    assert "go by the longest text of a batch beyond 16 tokens" in message
    path = place / "sentence_bert_config.json"
    path.write_text(json.dumps({**read(path), "max_seq_length": 16}))
    assert effir_json("convert", place, tmp_path / "out", "--to", "onnx")["cosine"] >= LEAST


def test_the_command_prints_what_python_returns(folder, tmp_path):
    told = effir_json("convert", folder, tmp_path / "out", "--to", "onnx")
    assert told["file"] == "onnx/model.onnx"
    assert told["cosine"] >= LEAST
    assert told["size"] == sum(x.stat().st_size for x in (tmp_path / "out").rglob("*.*"))
    line = effir("convert", folder, tmp_path / "out", "--to", "onnx", "--force").stdout
    assert "cosine to the model's own vectors at least 0.99" in line


def test_a_folder_that_holds_something_is_replaced_only_by_force(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert "is not empty" in refused("convert", folder, out, "--to", "onnx")
    assert "would be lost" in refused("convert", folder, out, "--to", "onnx", "--force")
    assert "lies in the model" in refused("convert", folder, folder / "onnx", "--to", "onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "tflite"], "format 'tflite' is not known; choose from onnx, openvino"),
        (["--to", "onnx", "--dtype", "int3"], "choose from fp32, fp16, int8"),
    ],
)
def test_unknown_formats_and_dtypes_are_refused_before_the_model_is_read(
    options, message, tmp_path
):
    assert message in refused("convert", tmp_path / "nowhere", tmp_path / "out", *options)


def test_a_folder_that_is_no_encoder_is_refused(folder, outs, tmp_path):
    assert "is no model folder" in refused(
        "convert", tmp_path / "nowhere", tmp_path / "out", "--to", "onnx"
    )
    (tmp_path / "empty").mkdir()
    message = refused("convert", tmp_path / "empty", tmp_path / "out", "--to", "onnx")
    assert "holds neither config.json nor modules.json" in message
    # what was converted has no weights to convert
    message = refused("convert", outs["fp32"][1], tmp_path / "out", "--to", "onnx")
    assert "safetensors" in message
    assert not (tmp_path / "out").exists()


def test_a_family_without_a_row_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "t5"}')
    message = refused("convert", tmp_path / "model", tmp_path / "out", "--to", "onnx")
    assert "safetensors" in message or "model family 't5' is not supported" in message


@pytest.mark.parametrize(
    ("to", "package", "extra"),
    [
        ("onnx", "onnxscript", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("gguf-ids", "gguf", "gguf"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    to, package, extra, folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    message = refused("convert", folder, tmp_path / "out", "--to", to, code=4)
    assert f'pip install "effir-integrations[{extra}]"' in message


def test_without_a_runtime_it_says_that_nothing_was_checked(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "find_spec", lambda name: None)
    done = effir("convert", folder, tmp_path / "out", "--to", "onnx")
    assert "not checked, since its runtime is not installed" in done.stdout
    assert read_history(tmp_path / "out")["made_by"][-1]["cosine"] is None
    assert "were not compared" in (tmp_path / "out" / "README.md").read_text()


def interrupted(*given):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("to", "module", "name"), [("onnx", onnx_file, "_save"), ("gguf-ids", to_gguf, "write_file")]
)
def test_an_interrupted_conversion_leaves_nothing(to, module, name, folder, tmp_path, monkeypatch):
    if to == "gguf-ids":
        pytest.importorskip("gguf")
    monkeypatch.setattr(module, name, interrupted)
    message = refused("convert", folder, tmp_path / "out", "--to", to, code=130)
    assert "nothing half-written was left" in message
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_gives_other_vectors_is_not_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(to_onnx.LEAST, "int8", 1.0)
    message = refused(
        "convert", folder, tmp_path / "out", "--to", "onnx", "--dtype", "int8", code=3
    )
    assert "gives other vectors" in message
    assert list(tmp_path.iterdir()) == []


def test_weights_of_a_large_model_lie_beside_the_graph(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_MOST_IN_ONE_FILE", 10_000)
    for dtype in ("fp32", "int8"):
        out = tmp_path / dtype
        assert convert(folder, out, "onnx", dtype=dtype).cosine >= to_onnx.LEAST[dtype]
        names = sorted(path.name for path in (out / "onnx").iterdir())
        assert names == ["model.onnx", "model.onnx_data"]


def test_a_folder_moves(outs, tmp_path):
    shutil.copytree(outs["fp32"][1], tmp_path / "elsewhere")
    OnnxEncoder(tmp_path / "elsewhere").encode("w1")
