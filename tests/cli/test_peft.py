"""What verbs make of a folder that holds an adapter."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lora_folder import write_adapter, write_stored
from pruned_folder import TEXTS
from tiny import save_bare
from verbs import effir_json, refused

from effir_integrations import load
from effir_integrations.model.stored import StoredBase


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_bare("llama", tmp_path_factory.mktemp("work") / "base")


@pytest.fixture(scope="module")
def adapter(base):
    write_adapter(base, base.parent / "adapter")
    return base.parent / "adapter"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_stored("bert", tmp_path_factory.mktemp("stored"))


@pytest.mark.parametrize("shape", ["bare", "stored"])
def test_an_adapter_is_compressed_under_its_own_name(shape, tmp_path, request):
    folder = request.getfixturevalue("adapter" if shape == "bare" else "stored")
    out = tmp_path / "out"
    effir_json("compress", str(folder), str(out), "--drop-attention", 1, "--texts", 4)
    history = json.loads((out / "effir.json").read_text())
    assert history["base"] == str(folder)
    assert f"# {folder.name}, pruned" in (out / "README.md").read_text()
    assert not list(out.rglob("adapter*"))
    # the same of the merged folder
    load(folder, device="cpu").save_pretrained(str(tmp_path / "merged"))
    effir_json(
        "compress", str(tmp_path / "merged"), str(tmp_path / "again"),
        "--drop-attention", 1, "--texts", 4,
    )  # fmt: skip
    first, second = (load(path, device="cpu").encode(TEXTS) for path in (out, tmp_path / "again"))
    assert np.array_equal(first, second)
    again = json.loads((tmp_path / "again" / "effir.json").read_text())
    assert history["fingerprint"] == again["fingerprint"]


def test_what_reads_weights_on_disk_says_how_to_merge(adapter, stored):
    for folder in (adapter, stored):
        merges = f"merge it first: effir_integrations.load('{folder}').save_pretrained(OUT)"
        assert merges in refused("show", str(folder), code=2)
    with pytest.raises(ValueError, match="merge it first"):
        StoredBase.read(adapter)


def test_the_base_of_an_adapter_is_not_written_over(adapter, base):
    message = refused("compress", str(adapter), str(base), "--force", code=2)
    assert f"the model that is read, {base}" in message
    assert (base / "model.safetensors").is_file()
