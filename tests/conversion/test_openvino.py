"""The same in OpenVINO."""

from __future__ import annotations

import numpy as np
import pytest
from converted import TEXTS, least_cosine, write_encoder

from effir_integrations import convert, load

pytest.importorskip("openvino")
pytest.importorskip("onnxscript")
from effir_integrations.onnx import OpenVinoEncoder


@pytest.fixture(scope="module", params=["bert", "mistral"])
def folder(request, tmp_path_factory):
    return write_encoder(request.param, tmp_path_factory.mktemp("models"), pruned=True)


@pytest.mark.parametrize(("dtype", "least"), [("fp32", 0.99999), ("fp16", 0.999)])
def test_a_folder_gives_its_vectors(dtype, least, folder, tmp_path):
    encoder = load(folder, device="cpu")
    done = convert(folder, tmp_path / "out", "openvino", dtype=dtype)
    assert done.cosine >= least
    names = sorted(path.name for path in (tmp_path / "out" / "openvino").iterdir())
    assert names == ["openvino_model.bin", "openvino_model.xml"]
    converted = OpenVinoEncoder(tmp_path / "out", threads=1)
    assert converted.dimension == 32
    expected = np.stack([encoder.encode(text) for text in TEXTS])
    assert least_cosine(converted.encode(TEXTS), expected) >= least
    ids = converted.token_ids(TEXTS)
    for side in ("right", "left"):
        assert least_cosine(converted.embed_ids(ids, padding_side=side), expected) >= least
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "OpenVinoEncoder" in card


def test_a_folder_that_is_none_is_refused(folder):
    with pytest.raises(FileNotFoundError, match="--to openvino"):
        OpenVinoEncoder(folder)
