"""A folder names the model whose documents its queries can search, for as long as that is so."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hub_cache import publish
from pruned_folder import PROMPTS, plan_for, train
from tiny import save_bare
from verbs import effir_json, refused

from effir_integrations import compress, distill, export, load, pair
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.encoder.history import read_history
from effir_integrations.encoder.model_files import identify_files
from effir_integrations.encoder.space_record import Space, documents_of, space_made_of, space_of
from effir_integrations.pruning.config import CompressConfig
from effir_integrations.pruning.export import export_from_disk
from effir_integrations.training.config import DistillConfig

COMMIT = "c" * 40
DISTILL = {"steps": 1, "batch_size": 2}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    place = tmp_path_factory.mktemp("space") / "full"
    bare = load(save_bare("qwen3", place.with_name("bare")), prompts=PROMPTS, device="cpu")
    bare.save_pretrained(str(place), create_model_card=False)
    return place


@pytest.fixture(scope="module")
def small(full):
    """The full model, pruned."""
    export(full, plan_for(load(full, device="cpu")), full.with_name("small"))
    return full.with_name("small")


@pytest.fixture(scope="module")
def paired(full, small):
    return pair(small, full, full.with_name("pair"), apart=True)


@pytest.fixture
def of_full(full):
    return Space(name=str(full), files=identify_files(full).identity)


def test_what_is_pruned_by_name_names_its_base(full, small, of_full, tmp_path):
    assert space_of(full) is None
    assert space_of(small) == of_full
    assert read_history(small)["space"]["name"] == str(full)
    plan = plan_for(load(full, device="cpu"))
    export_from_disk(full, plan, tmp_path / "disk")
    compress(full, tmp_path / "compressed", CompressConfig(drop_mlp=1, keep_neurons=None))
    plan.save(tmp_path / "run")
    effir_json("export", tmp_path / "run", tmp_path / "exported", "--model", full)
    for name in ("disk", "compressed", "exported"):
        assert space_of(tmp_path / name) == of_full


def test_weights_in_memory_may_be_others_and_name_no_space(full, tmp_path):
    encoder = load(full, device="cpu")
    export(encoder, plan_for(encoder), tmp_path / "out")
    assert space_of(tmp_path / "out") is None


def test_what_is_pruned_again_stays_in_the_first_space(full, small, of_full, tmp_path):
    compress(small, tmp_path / "smaller", CompressConfig(drop_mlp=1))
    assert space_of(tmp_path / "smaller") == of_full


def test_a_pair_names_its_document_encoder(paired, full, of_full):
    assert space_of(paired.queries) == of_full
    for folder in (paired.out, paired.documents):
        assert space_of(folder) == documents_of(folder)
        assert space_of(folder) == Space(name=str(full), files=of_full.files, same_documents=True)


def test_a_pair_with_a_copy_of_a_document_encoder_names_the_first(paired, small, of_full, tmp_path):
    made = pair(small, paired.documents, tmp_path / "again", apart=True)
    assert space_of(made.queries) == of_full
    assert LazyEncoder(made.out).documents == LazyEncoder(paired.out).documents


def test_distillation_to_vectors_leads_to_the_teacher_s_space(full, small, of_full, tmp_path):
    texts = ["w1 w2", "w3 w4"]
    for target, expected in (("vectors", of_full), ("similarities", None)):
        config = DistillConfig(target=target, **DISTILL)
        distill(small, full, texts, config, tmp_path / target)
        assert space_of(tmp_path / target) == expected
        loaded = tmp_path / f"{target}-loaded"
        distill(small, load(full, device="cpu"), texts, config, loaded)
        assert space_of(loaded) is None


def test_training_by_others_names_no_space(small, tmp_path):
    encoder = load(small, device="cpu")
    train(encoder, tmp_path / "work")
    encoder.save_pretrained(str(tmp_path / "trained"))
    assert read_history(tmp_path / "trained")["mlp_widths"] == read_history(small)["mlp_widths"]
    assert space_of(tmp_path / "trained") is None


def test_a_damaged_record_is_refused_by_name(small, tmp_path):
    shutil.copytree(small, tmp_path / "copy")
    path = tmp_path / "copy" / "effir.json"
    content = json.loads(path.read_text())
    for wrong, message in (
        ("x", "space"),
        ({"name": "a"}, "files"),
        ({"name": 1, "files": "x"}, "name=1"),
    ):
        path.write_text(json.dumps({**content, "space": wrong}))
        with pytest.raises(ValueError, match=rf"effir\.json.*{message}"):
            LazyEncoder(tmp_path / "copy")


@pytest.fixture
def hub(paired, tmp_path, monkeypatch):
    """The pair and its encoder of queries as if downloaded from the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for folder, name in ((paired.out, "me/pair"), (paired.queries, "me/queries")):
        publish(folder, name, COMMIT, tmp_path / "hub")


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_pair_on_the_hub_is_loaded_by_its_name(hub, paired, revision):
    found, expected = (
        load(name, device="cpu", revision=x)
        for name, x in (("me/pair", revision), (paired.out, None))
    )
    for method in ("encode_query", "encode_document", "encode"):
        vectors = [getattr(x, method)(["w1 w2", "w3"]) for x in (found, expected)]
        assert np.array_equal(*vectors)
    assert identify_files("me/pair", revision).identity == f"me/pair at {COMMIT}"


def test_names_on_the_hub_search_the_same_store_as_folders(hub, of_full):
    for name in ("me/pair", "me/queries"):
        encoder = LazyEncoder(name, device="cpu", precision=None)
        assert encoder.searches == {of_full.files, f"{name} at {COMMIT}"}
        assert encoder.embed(["w1"], "query").shape == (1, 32)
    assert LazyEncoder("me/pair").documents.files == of_full.files
    assert space_made_of("me/queries") == of_full


def test_a_pair_on_the_hub_is_evaluated_and_refused_as_one_model(hub, make_beir, tmp_path):
    assert effir_json("evaluate", "me/pair", "--data", make_beir())
    assert "me/pair holds several encoders" in refused("compress", "me/pair", tmp_path / "out")
