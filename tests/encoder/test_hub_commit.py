"""A model on the hub is known by its commit, whichever version of Transformers loads it."""

from __future__ import annotations

import pytest
from hub_cache import publish
from tiny import save_bare

from effir_integrations import compress, load
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.history import read_history
from effir_integrations.encoder.model_files import identify_files
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.pruning.config import CompressConfig

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture(params=["bare", "with modules"])
def hub(request, tmp_path, monkeypatch):
    """Two commits of one model in the cache, of which the second is main."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for seed, commit in enumerate((FIRST, SECOND)):
        folder = save_bare("llama", tmp_path / commit, seed=seed)
        if request.param == "with modules":
            load(folder, device="cpu").save(str(tmp_path / f"modules-{seed}"))
            folder = tmp_path / f"modules-{seed}"
        publish(folder, "me/model", commit, tmp_path / "hub")


@pytest.mark.parametrize(("revision", "commit"), [(None, SECOND), ("main", SECOND), (FIRST, FIRST)])
def test_a_loaded_model_and_its_files_are_of_one_commit(hub, revision, commit):
    encoder = load("me/model", device="cpu", revision=revision)
    identity = BaseIdentity.of(transformer_model(encoder))
    assert (identity.name, identity.revision) == ("me/model", commit)
    found = identify_files("me/model", revision)
    assert (found.revision, found.identity) == (commit, f"me/model at {commit}")


def test_the_card_names_the_base_on_the_hub(hub, tmp_path):
    compress("me/model", tmp_path / "out", CompressConfig(last_blocks=1))
    assert read_history(tmp_path / "out")["revision"] == SECOND
    assert "base_model: me/model\n" in (tmp_path / "out" / "README.md").read_text()
