"""Encoders with other weights, tokenizers or settings have other fingerprints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import save_bare

from effir_integrations import load
from effir_integrations.encoder import fingerprint
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.fingerprint import block_sums, encoder_fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_bare("llama", tmp_path_factory.mktemp("base") / "tiny-llama")


def fresh(folder, **options):
    return load(folder, device="cpu", **options)


def test_loading_and_encoding_change_nothing(folder, tmp_path):
    encoder = fresh(folder)
    first = encoder_fingerprint(encoder)
    encoder.encode(["w1 w2", "w3"], prompt="w4")
    assert encoder_fingerprint(encoder) == first == encoder_fingerprint(fresh(folder))
    encoder.save_pretrained(str(tmp_path / "copy"))
    assert encoder_fingerprint(fresh(tmp_path / "copy")) == first


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_one_changed_weight_shows(folder, dtype):
    encoder = fresh(folder, dtype=dtype)
    first = encoder_fingerprint(encoder)
    weight = list(transformer_model(encoder).parameters())[-2]
    with torch.no_grad():
        pattern = weight.view(torch.int32 if dtype == "fp32" else torch.int16)
        pattern.view(-1)[5] += 1
    assert encoder_fingerprint(encoder) != first
    with torch.no_grad():
        pattern.view(-1)[5] -= 1
    assert encoder_fingerprint(encoder) == first


def test_dtype_pooling_tokenizer_and_config_show(folder, tmp_path):
    seen = {encoder_fingerprint(fresh(folder))}
    seen.add(encoder_fingerprint(fresh(folder, dtype="bf16")))
    seen.add(encoder_fingerprint(fresh(folder, pooling="mean")))
    encoder = fresh(folder)
    encoder.tokenizer.add_tokens(["new"])
    seen.add(encoder_fingerprint(encoder))
    other = fresh(folder)
    transformer_model(other).config.rms_norm_eps *= 2
    seen.add(encoder_fingerprint(other))
    assert len(seen) == 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_sums_are_those_of_the_bits_and_blocks_are_kept_apart(dtype, monkeypatch):
    monkeypatch.setattr(fingerprint, "BLOCK", 16)
    values = torch.randn(39).mul(40).to(dtype)
    raw = values.view(torch.uint8).numpy().tobytes()
    size = values.element_size()
    expected = []
    for start in range(0, len(raw), 16 * size):
        block = np.frombuffer(raw[start : start + 16 * size], np.uint8)
        whole = len(block) // 8 * 8
        rest = block[whole:].view({8: "<i8", 4: "<i4", 2: "<i2", 1: "u1"}[size])
        expected += [int(block[:whole].view("<i8").sum()), int(rest.sum(dtype=np.int64))]
    assert block_sums(values) == expected
    shifted = torch.cat([values[:1], values])[1:]
    assert shifted.storage_offset() == 1
    assert block_sums(shifted) == expected
    assert block_sums(values.reshape(3, 13).T.contiguous().T) == expected


def test_a_scalar_and_nothing_can_be_summed():
    assert block_sums(torch.tensor(1.0)) == [0, 0x3F800000]
    assert block_sums(torch.tensor([True])) == [0, 1]
    assert block_sums(torch.empty(0, 3)) == []


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_quantised_weights_are_told_apart(folder, precision, tmp_path):
    pytest.importorskip("torchao")
    first = encoder_fingerprint(fresh(folder, precision=precision))
    assert encoder_fingerprint(fresh(folder, precision=precision)) == first
    other = save_bare("llama", tmp_path / "other", seed=1)
    assert encoder_fingerprint(fresh(other, precision=precision)) != first
    assert encoder_fingerprint(fresh(folder)) != first


def test_state_that_is_no_tensor_counts_by_its_value(folder):
    class Extra(torch.nn.Module):
        def __init__(self, extra: object) -> None:
            super().__init__()
            self.extra = extra

        def get_extra_state(self) -> object:
            return self.extra

    seen = []
    for extra in (1, 1, 2, object(), object()):
        encoder = fresh(folder)
        encoder.append(Extra(extra))
        seen.append(encoder_fingerprint(encoder))
    assert seen[0] == seen[1] != seen[2]
    assert seen[3] == seen[4] != seen[0]
