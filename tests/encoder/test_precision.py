"""A precision is had by name, refused where it cannot be, and close to fp32 where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import save_bare

from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.encoder.precision import PRECISIONS, has_bf16

TEXTS = [f"w{number} w{number * 7 % 60} w{number * 11 % 60}" for number in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_bare("qwen3", tmp_path_factory.mktemp("qwen3"))


def test_auto_is_bf16_where_the_hardware_computes_in_it(folder, monkeypatch):
    assert load(folder, precision="auto").dtype == (torch.bfloat16 if has_bf16() else torch.float32)
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("effir_integrations.encoder.precision.has_bf16", lambda _, x=has: x)
        assert load(folder, precision="auto", device="cpu").dtype == expected


@pytest.mark.parametrize("precision", ["bf16", "int8", "int8-dynamic"])
def test_narrow_vectors_point_where_those_of_fp32_point(folder, precision):
    exact = load(folder, precision="fp32", device="cpu").encode(TEXTS)
    narrow = load(folder, precision=precision, device="cpu").encode(TEXTS)
    assert narrow.dtype == np.float32
    cosines = (exact * narrow).sum(1)  # both have unit length
    assert 0.99 < cosines.min() and not np.array_equal(exact, narrow)


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_int8_holds_linear_weights_in_one_byte(folder, precision):
    model = transformer_model(load(folder, precision=precision, device="cpu"))
    weight = model.layers[0].mlp.up_proj.weight
    assert type(weight).__name__ != "Parameter"
    assert weight.qdata.dtype == torch.int8


def test_fp32_is_exact_whatever_the_checkpoint_holds(tmp_path):
    folder = save_bare("qwen3", tmp_path)
    assert load(folder, precision="fp32").dtype == torch.float32
    assert load(folder, precision="bf16").dtype == torch.bfloat16


def test_an_unknown_precision_is_refused_before_the_model_is_looked_for():
    with pytest.raises(ValueError, match="precision 'int3' is not known; choose from auto, fp32"):
        load("/nowhere", precision="int3")
    assert len(PRECISIONS) == 6


def test_a_dtype_and_a_precision_are_refused(folder):
    with pytest.raises(ValueError, match="two answers to one question"):
        load(folder, dtype="bf16", precision="fp32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_nf4_needs_cuda(folder):
    with pytest.raises(ValueError, match="precision 'nf4' needs a CUDA device; choose int8, bf16"):
        load(folder, precision="nf4")


def test_int8_without_linear_layers_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"GPT2Model has no torch\.nn\.Linear layers"):
        load(save_bare("gpt2", tmp_path), precision="int8")


def test_int8_without_torchao_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[int8\]"'):
        load(folder, precision="int8")


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_quantised_weights_are_refused_before_anything_is_written(folder, precision, tmp_path):
    encoder = load(folder, precision=precision, device="cpu")
    with pytest.raises(ValueError, match=r"in 8 or 4 bits, .* load that folder with it"):
        encoder.save_pretrained(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="in 8 or 4 bits"):  # and before a repository is made
        encoder.push_to_hub("me/smaller")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_are_saved(folder, precision, tmp_path):
    encoder = load(folder, precision=precision, device="cpu")
    encoder.save_pretrained(str(tmp_path / "out"))
    np.testing.assert_array_equal(load(tmp_path / "out").encode(TEXTS), encoder.encode(TEXTS))
