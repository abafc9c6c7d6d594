"""Real models give the same vectors in onnxruntime."""

from __future__ import annotations

import pytest
from converted import least_cosine

from effir_integrations import convert, load, load_calibration, mini_path

pytest.importorskip("onnxscript")
from effir_integrations.conversion.to_onnx import LEAST
from effir_integrations.onnx import OnnxEncoder

TEXTS = load_calibration(limit=12).texts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["effir-mini", "minilm"])
def test_a_real_model_gives_the_same_vectors(name, request, tmp_path):
    folder = mini_path() if name == "effir-mini" else request.getfixturevalue("minilm")
    encoder = load(folder, device="cpu", dtype="fp32")
    for dtype, least in (("fp32", 0.99999), ("int8", LEAST["int8"])):
        out = tmp_path / dtype
        assert convert(folder, out, "onnx", dtype=dtype).cosine >= least
        converted = OnnxEncoder(out, threads=1)
        assert least_cosine(converted.encode_query(TEXTS), encoder.encode_query(TEXTS)) >= least
