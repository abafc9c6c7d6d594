"""A linear map behind the query encoder stays where held-out texts say that it helps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pruned_folder import PROMPTS, plan_for
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from tiny import WORDS, save_bare
from torch import nn
from verbs import effir, effir_json, refused

from effir_integrations import export, load, load_calibration, pair
from effir_integrations.encoder.linear_map import bare_modules
from effir_integrations.pairing import pair as pair_module
from effir_integrations.pairing.mapping import load_map_texts

TEXTS = [f"{x} {y} {z}" for x in WORDS[:10] for y in WORDS[20:25] for z in WORDS[40:43]]
PROBES = ["w1 w2 w3", "w4 " * 60, "w9 w7", "w5 w6 w7 w8 w9 w10 w11 w12"]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """An encoder of documents with prompts."""
    place = tmp_path_factory.mktemp("full")
    encoder = load(save_bare("qwen3", place / "bare"), prompts=PROMPTS, device="cpu")
    encoder.save_pretrained(str(place / "full"), create_model_card=False)
    return place / "full"


@pytest.fixture(scope="module")
def small(full, tmp_path_factory):
    """The same, pruned."""
    place, encoder = tmp_path_factory.mktemp("small") / "small", load(full, device="cpu")
    export(encoder, plan_for(encoder), place)
    return place


@pytest.fixture(scope="module")
def rotation():
    """(32, 32), orthogonal."""
    return np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0].astype(np.float32)


@pytest.fixture(scope="module")
def turned(full, rotation, tmp_path_factory):
    """The full one in a space of its own."""
    place, encoder = tmp_path_factory.mktemp("turned") / "turned", load(full, device="cpu")
    linear = Dense(32, 32, bias=False, activation_function=nn.Identity())
    linear.load_state_dict({"linear.weight": torch.tensor(rotation.T)})
    modules = [*bare_modules(encoder), linear, Normalize()]
    made = SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu")
    made.save_pretrained(str(place), create_model_card=False)
    return place


def stock(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize("method", ["procrustes", "ridge"])
def test_a_rotation_that_was_planted_is_undone(method, turned, full, rotation, tmp_path):
    made = pair(turned, full, tmp_path / "out", map=method, texts=TEXTS, apart=True)
    assert made.map.kept and made.map.before < 0.5 and made.map.after > 0.9999
    assert made.cosine == made.map.after
    both, weight = stock(made.out), stock(made.queries)[-2].linear.weight.detach().numpy()
    assert type(stock(made.queries)[-1]) is Normalize
    assert cosines(both.encode_query(PROBES), stock(full).encode_query(PROBES)).min() > 0.999
    assert np.array_equal(both.encode_query(PROBES), stock(made.queries).encode_query(PROBES))
    if method == "procrustes":
        assert np.abs(weight - rotation).max() < 1e-4


def test_a_map_that_helps_is_told_everywhere(turned, full, tmp_path):
    options = ("--map", "ridge", "--texts", tmp_path / "texts.txt")
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, *TEXTS]))
    told = effir_json("pair", turned, full, tmp_path / "out", *options)
    found = told["map"]
    assert (found["texts"], found["held_out"]) == (len(TEXTS), len(TEXTS) // 5)
    assert found["source"] == str(tmp_path / "texts.txt") and found["kept"] is True
    content = json.loads((tmp_path / "out" / "effir.json").read_text())
    assert content["made_by"][-1]["map"] == found
    assert content["made_by"][-1]["config"] == {"map": "ridge"}
    stage = content["query"]["history"]["made_by"][-1]
    assert (stage["stage"], stage["after"]) == ("map", found["after"])
    assert told["query_parameters"] == content["query"]["history"]["parameters"] + 32 * 32
    change = f"from {found['before']:.4f} to {found['after']:.4f}"
    assert change in (tmp_path / "out" / "README.md").read_text()
    assert change in effir("pair", turned, full, tmp_path / "new", *options).stdout


def test_a_map_that_does_not_help_is_left_out(full, tmp_path):
    # nothing comes closer to an encoder than itself
    made = pair(full, full, tmp_path / "out", map="procrustes", texts=TEXTS, apart=True)
    assert made.map.kept is False and made.cosine == made.map.before
    assert "No linear map" in (tmp_path / "out" / "README.md").read_text()
    plain = pair(full, full, tmp_path / "plain", apart=True)
    for one, other in ((made.out, plain.out), (made.queries, plain.queries)):
        names = sorted(x.relative_to(one) for x in one.rglob("*.*"))
        assert names == sorted(x.relative_to(other) for x in other.rglob("*.*"))
        for name in names:
            same = (one / name).read_bytes() == (other / name).read_bytes()
            assert same or one == made.out and str(name) in ("effir.json", "README.md"), name


def test_another_dimension_is_reached_by_a_map(full, tmp_path):
    narrow = save_bare("bert", tmp_path / "narrow", hidden_size=16)
    for method, query, document in (
        ("ridge", narrow, full),
        ("procrustes", narrow, full),
        ("procrustes", full, narrow),
    ):
        made = pair(query, document, tmp_path / "out", map=method, texts=TEXTS, force=True)
        assert made.map.kept and made.map.before is None and made.cosine == made.map.after
        both, alone = stock(made.out), load(document, device="cpu")
        found, wanted = both.encode_query(TEXTS), alone.encode_query(TEXTS)
        assert found.shape == wanted.shape
        mean = np.broadcast_to(wanted.mean(0), wanted.shape)
        # random models have little in common but the words; a rotation cannot shrink what differs
        assert (
            method == "procrustes" or cosines(found, wanted).mean() > cosines(mean, wanted).mean()
        )
        weight = both[0].sub_modules["query"][-2].linear.weight.detach()
        gram = weight @ weight.T if len(weight) == 16 else weight.T @ weight
        assert method == "ridge" or torch.allclose(gram, torch.eye(16), atol=1e-5)
    assert "leads from one dimension to the other" in (made.out / "README.md").read_text()


def test_another_head_is_made_up_for_by_a_map(full, tmp_path):
    modules = [load(full, device="cpu")[0], Pooling(32, "mean")]
    pooled = SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu")
    pooled.save_pretrained(str(tmp_path / "pooled"), create_model_card=False)
    made = pair(tmp_path / "pooled", full, tmp_path / "out", map="ridge", texts=TEXTS)
    assert made.map.kept and made.map.after > made.map.before


def test_without_texts_the_sentences_of_the_shipped_ones_serve():
    chosen = load_map_texts(None)
    assert len(chosen) > 1000 and chosen.texts == load_map_texts("sample").texts
    assert max(map(len, chosen.texts)) < max(map(len, load_calibration().texts))


@pytest.fixture
def unread(monkeypatch):
    """Fail where weights of an encoder are read: what is refused is refused before."""
    monkeypatch.setattr(pair_module, "load", lambda *_, **__: pytest.fail("weights were read"))


def test_too_few_texts_are_refused_with_how_many_are_needed(small, full, tmp_path, unread):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS[:40] * 3))
    message = refused("pair", small, full, tmp_path / "out", "--map", "ridge", "--texts", texts)
    assert "holds 40 different texts" in message and "needs 100 or more" in message
    texts.write_text("\n".join(TEXTS))
    wide = save_bare("qwen3", tmp_path / "wide", hidden_size=128)
    options = ("--map", "procrustes", "--texts", texts)
    message = refused("pair", wide, full, tmp_path / "out", *options)
    assert "128 dimensions needs 160 or more" in message and "map='ridge'" in message
    assert not (tmp_path / "out").exists()


def test_an_unknown_map_and_texts_for_none_are_refused(small, full, tmp_path, unread):
    message = refused("pair", small, full, tmp_path / "out", "--map", "lasso")
    assert "map='lasso' is not known; choose ridge, procrustes" in message
    assert "name it too" in refused("pair", small, full, tmp_path / "out", "--texts", "sample")


def test_scores_that_are_not_of_unit_vectors_are_refused(full, tmp_path, unread):
    model = SentenceTransformer(
        modules=[load(full, device="cpu")[0], Pooling(32, "mean")],
        similarity_fn_name="dot",
        prompts=PROMPTS,
        device="cpu",
    )
    model.save_pretrained(str(tmp_path / "dot"), create_model_card=False)
    message = refused(
        "pair", tmp_path / "dot", tmp_path / "dot", tmp_path / "out", "--map", "ridge"
    )
    assert "not of unit length" in message
