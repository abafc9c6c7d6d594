"""A folder of two encoders is loaded as one, and each text goes to its own."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from pruned_folder import PROMPTS, TEXTS, plan_for
from sentence_transformers import SentenceTransformer
from tiny import save_bare
from verbs import effir_json, refused

from effir_integrations import Encoder, analyze, export, load, pair
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.encoder.fingerprint import encoder_fingerprint
from effir_integrations.encoder.inference import Inference
from effir_integrations.encoder.search_vectors import search_vectors


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The pair, and the two that it is made of; queries are cut shorter."""
    place = tmp_path_factory.mktemp("pair")
    full = load(save_bare("qwen3", place / "bare"), prompts=PROMPTS, device="cpu")
    full.save_pretrained(str(place / "full"), create_model_card=False)
    made = export(full, plan_for(full), place / "pruned")
    made.max_seq_length = 16
    made.save_pretrained(str(place / "small"), create_model_card=False)
    return pair(place / "small", place / "full", place / "out").out, place / "small", place / "full"


@pytest.fixture(scope="module")
def encoders(folders):
    return [load(folder, device="cpu") for folder in folders]


def pair_of(folders, first: int, second: int):
    """Make another pair of the same encoders."""
    out = folders[0].with_name(f"pair-{first}-{second}")
    return pair(folders[first], folders[second], out).out


def test_each_role_gives_what_its_encoder_gives_alone(encoders):
    both, small, full = encoders
    assert isinstance(both, Encoder)
    assert np.array_equal(both.encode_query(TEXTS), small.encode_query(TEXTS))
    assert np.array_equal(both.encode_document(TEXTS), full.encode_document(TEXTS))
    assert np.array_equal(both.encode(TEXTS), full.encode(TEXTS))
    assert [tower.max_seq_length for tower in both.towers()] == [16, 32]


def test_the_stock_class_gives_the_same(folders, encoders):
    stock = SentenceTransformer(str(folders[0]), device="cpu")
    for name in ("encode_query", "encode_document"):
        found, expected = (getattr(x, name)(TEXTS) for x in (encoders[0], stock))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_both_take_the_fast_path(encoders, monkeypatch):
    calls, embed = [], Inference.embed
    monkeypatch.setattr(Inference, "embed", lambda self, x: calls.append(1) or embed(self, x))
    before = encoders[0].tokens_encoded
    encoders[0].encode_query(TEXTS), encoders[0].encode_document(TEXTS)
    assert len(calls) == 2
    assert encoders[0].tokens_encoded > before


def test_a_length_of_one_call_exceeds_the_limit_of_neither(encoders):
    both, small, full = encoders
    for length in (10, 24):
        found = both.encode_query(TEXTS, max_length=length)
        assert np.array_equal(found, small.encode_query(TEXTS, max_length=length))
        found = both.encode_document(TEXTS, max_length=length)
        assert np.array_equal(found, full.encode_document(TEXTS, max_length=length))


def test_length_precision_and_prompts_reach_both(folders):
    both = load(folders[0], device="cpu", max_length=8, precision="bf16", prompts={"query": "w1 "})
    small = load(folders[1], device="cpu", max_length=8, precision="bf16", prompts={"query": "w1 "})
    assert [tower.max_seq_length for tower in both.towers()] == [8, 8]
    assert np.array_equal(both.encode_query(TEXTS), small.encode_query(TEXTS))


def test_it_is_saved_as_it_was_loaded(encoders, tmp_path):
    encoders[0].save_pretrained(str(tmp_path / "again"), create_model_card=False)
    assert (tmp_path / "again" / "modeling_effir.py").is_file()
    again = load(tmp_path / "again", device="cpu")
    for name in ("encode_query", "encode_document"):
        found, expected = (getattr(x, name)(TEXTS) for x in (again, encoders[0]))
        assert np.array_equal(found, expected)


def test_it_is_evaluated_and_encodes_as_one_model(folders, make_beir, tmp_path):
    folder = make_beir()
    assert effir_json("evaluate", folders[0], "--data", folder)
    for role, alone in (("query", folders[1]), ("document", folders[2])):
        made = []
        for name in (folders[0], alone):
            out = tmp_path / f"{role}-{name.name}.npy"
            words = ["encode", name, "--data", folder, "--role", role, "--out", out]
            effir_json(*words, "--precision", "fp32", "--device", "cpu")
            made.append(np.load(out))
        # few rows: the last bit may depend on where in memory the weights lie
        np.testing.assert_allclose(*made, atol=1e-6)


def test_adapters_take_it_and_know_its_files(folders):
    adapter = LazyEncoder(folders[0], device="cpu", precision="fp32", max_length=24)
    for role, alone in (("query", folders[1]), ("document", folders[2])):
        expected = search_vectors(load(alone, device="cpu"), TEXTS, kind=role, max_length=24)
        assert np.array_equal(adapter.embed(TEXTS, role), expected)
    assert adapter.limit == 24


def test_its_fingerprint_is_that_of_both(folders, encoders):
    found = encoder_fingerprint(encoders[0])
    assert found == encoder_fingerprint(load(folders[0], device="cpu"))
    assert found != encoder_fingerprint(load(pair_of(folders, 2, 2), device="cpu"))


def test_a_damaged_tower_is_refused_by_name(folders, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(folders[0], place)
    weights = place / "query_0_Transformer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="query_0_Transformer"):
        load(place, device="cpu")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="query_0_Transformer"):
        load(place, device="cpu")
    shutil.rmtree(weights.parent)
    with pytest.raises(FileNotFoundError, match="query_0_Transformer"):
        load(place, device="cpu")


def test_other_routes_are_refused(folders, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(folders[0], place)
    path = place / "router_config.json"
    content = json.loads(path.read_text())
    content["structure"]["image"] = content["structure"].pop("query")
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has the routes document, image"):
        load(place, device="cpu")


def test_what_needs_one_model_refuses_two(folders, tmp_path):
    with pytest.raises(ValueError, match="two finished encoders"):
        load(folders[0], pooling="mean")
    for verb in (["compress", folders[0], tmp_path / "out"], ["show", folders[0]]):
        assert "holds several encoders" in refused(*verb)
    with pytest.raises(ValueError, match=r"two models; give one of them, which is .tower"):
        analyze(load(folders[0], device="cpu"), ["w1 w2"])
    message = refused("pair", folders[0], folders[2], tmp_path / "out")
    assert "effir pair --apart" in message
