"""`pair` writes a folder whose two towers give their own vectors, or nothing, and says why."""

from __future__ import annotations

import json
from pathlib import Path

import fresh
import numpy as np
import pytest
from fresh import ABSENT
from pruned_folder import BASE_CARD, PROMPTS, plan_for
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from tiny import save_bare
from torch import nn
from verbs import effir, effir_json, refused

from effir_integrations import export, load, pair
from effir_integrations.encoder.fingerprint import encoder_fingerprint
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pairing import pair as pair_module
from effir_integrations.pairing import writing

TEXTS = ["w1 w2 w3", "w4 " * 60, "w9 w7", "w5 w6 w7 w8 w9 w10 w11 w12"]
SCRIPT = f"""
import json, sys
{ABSENT}
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", trust_remote_code=True)
texts = json.loads(sys.argv[2])
np.save(sys.argv[3], np.stack([model.encode_query(texts), model.encode_document(texts)]))
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """An encoder of documents with prompts and a licence."""
    place = tmp_path_factory.mktemp("full")
    encoder = load(save_bare("qwen3", place / "bare"), prompts=PROMPTS, device="cpu")
    encoder.save_pretrained(str(place / "full"), create_model_card=False)
    (place / "full" / "README.md").write_text(BASE_CARD)
    return place / "full"


@pytest.fixture(scope="module")
def small(full, tmp_path_factory):
    """The same, pruned."""
    place, encoder = tmp_path_factory.mktemp("small") / "small", load(full, device="cpu")
    export(encoder, plan_for(encoder), place)
    return place


@pytest.fixture(scope="module")
def paired(small, full, tmp_path_factory):
    """Both in one folder, and beside it each alone."""
    return pair(small, full, tmp_path_factory.mktemp("paired") / "out", apart=True)


def stock(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def changed(folder: Path, place: Path, **settings) -> Path:
    """Copy an encoder with other settings of its Sentence Transformers folder."""
    load(folder, device="cpu").save_pretrained(str(place), create_model_card=False)
    path = place / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return place


def made_of(folder: Path, place: Path, *head) -> Path:
    """Write an encoder with other modules behind the transformer."""
    model = SentenceTransformer(modules=[load(folder, device="cpu")[0], *head], device="cpu")
    model.save_pretrained(str(place), create_model_card=False)
    return place


def test_each_role_runs_its_own_tower_bit_for_bit(paired, small, full):
    both, one, other = stock(paired.out), stock(small), stock(full)
    assert np.array_equal(both.encode_query(TEXTS), one.encode_query(TEXTS))
    assert np.array_equal(both.encode_document(TEXTS), other.encode_document(TEXTS))
    assert np.array_equal(both.encode(TEXTS), other.encode(TEXTS))
    assert not np.array_equal(one.encode_query(TEXTS), other.encode_query(TEXTS))


def test_a_process_without_this_package_gives_the_same(paired, tmp_path):
    file = tmp_path / "vectors.npy"
    fresh.run(["-c", SCRIPT, paired.out, json.dumps(TEXTS), file], check=True)
    both = stock(paired.out)
    expected = [both.encode_query(TEXTS), both.encode_document(TEXTS)]
    assert np.array_equal(np.load(file), np.stack(expected))


def test_each_encoder_alone_lies_beside_the_pair(paired, small, full):
    assert paired.queries == paired.out.with_name("out-queries")
    assert paired.documents == paired.out.with_name("out-documents")
    for folder, source in ((paired.queries, small), (paired.documents, full)):
        assert np.array_equal(stock(folder).encode(TEXTS), stock(source).encode(TEXTS))


def test_the_folder_says_what_it_is_made_of(paired, small, full):
    content = json.loads((paired.out / "effir.json").read_text())
    for role, source in (("query", small), ("document", full)):
        assert content[role]["fingerprint"] == encoder_fingerprint(load(source, device="cpu"))
        assert content[role]["name"] == str(source)
        assert (paired.out / content[role]["folder"] / "config.json").is_file()
    assert content["query"]["history"]["mlp_widths"] == [48, 0, 48, 5]
    assert content["made_by"][-1]["stage"] == "pair"
    assert content["made_by"][-1]["same_base"] is paired.same_base is True
    card = (paired.out / "README.md").read_text()
    assert "license: mit" in card and f"{paired.cosine:.4f}" in card
    assert "import effir_integrations" in card


def test_the_code_of_the_card_runs(paired):
    card = (paired.out / "README.md").read_text()
    code = card.split("```python\n")[1].partition("```")[0]
    exec(code.replace("sentence_transformers_model_id", str(paired.out)), {})  # noqa: S102


def test_two_plain_models_need_no_code_of_ours(full, tmp_path):
    made = pair(full, full, tmp_path / "out")
    assert not (made.out / "modeling_effir.py").exists()
    assert "effir_integrations  #" not in (made.out / "README.md").read_text()
    assert made.cosine == pytest.approx(1)


def test_each_tower_keeps_its_prompt_and_its_length(small, full, tmp_path):
    other = changed(small, tmp_path / "q", prompts={"query": "w1 w1 ", "passage": "w2 "})
    settings = other / "sentence_bert_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "max_seq_length": 6}))
    tokens = other / "tokenizer_config.json"
    tokens.write_text(json.dumps({**json.loads(tokens.read_text()), "model_max_length": 6}))
    both = stock(pair(other, full, tmp_path / "out").out)
    assert both.prompts == {"query": "w1 w1 ", "document": PROMPTS["document"]}
    assert np.array_equal(both.encode_query(TEXTS), stock(other).encode_query(TEXTS))
    assert np.array_equal(both.encode_document(TEXTS), stock(full).encode_document(TEXTS))


def test_a_prompt_under_another_name_is_found(small, full, tmp_path):
    prompts = {"passage": "w3 ", "sts": "w4 "}
    document = changed(full, tmp_path / "d", prompts=prompts, default_prompt_name="sts")
    both = stock(pair(small, document, tmp_path / "out").out)
    alone = stock(document)
    assert both.prompts["sts"] == "w4 "
    for name in ("encode", "encode_document"):
        assert np.array_equal(getattr(both, name)(TEXTS), getattr(alone, name)(TEXTS))


@pytest.fixture
def unread(monkeypatch):
    """Fail where weights of an encoder are read: what is refused is refused before."""
    monkeypatch.setattr(pair_module, "load", lambda *_, **__: pytest.fail("weights were read"))


def test_a_prompt_of_two_texts_is_refused_by_name(small, full, tmp_path, unread):
    query = changed(small, tmp_path / "q", prompts={**PROMPTS, "sts": "w1 "})
    document = changed(full, tmp_path / "d", prompts={**PROMPTS, "sts": "w2 "})
    message = refused("pair", query, document, tmp_path / "out")
    assert "the prompt 'sts' is 'w1 '" in message and "rename or remove it" in message


def test_a_default_prompt_that_is_a_query_is_refused(small, full, tmp_path, unread):
    query = changed(small, tmp_path / "q", prompts={"query": "w1 "})
    document = changed(full, tmp_path / "d", default_prompt_name="query")
    assert "the prompt 'query' is 'w1 '" in refused("pair", query, document, tmp_path / "out")


def test_unlike_dimensions_are_refused(small, tmp_path, unread):
    wide = save_bare("qwen3", tmp_path / "wide", hidden_size=64)
    message = refused("pair", small, wide, tmp_path / "out")
    assert "gives vectors of 32 dimensions" in message and "of 64" in message
    assert "made from the document encoder" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (lambda: [Pooling(32, "mean"), Normalize()], "pooling_mode=mean"),
        (lambda: [Pooling(32, "lasttoken")], "stands Pooling, Normalize, "),
        (
            lambda: [Pooling(32, "lasttoken"), Dense(32, 32), Normalize()],
            "Dense, Normalize; give",
        ),
    ],
)
def test_unlike_heads_are_refused(head, named, small, full, tmp_path, unread):
    other = made_of(full, tmp_path / "other", *head())
    message = refused("pair", small, other, tmp_path / "out")
    assert "behind the transformer of" in message and named in message


def test_a_linear_map_into_the_space_of_the_documents_is_allowed(full, tmp_path):
    bare = load(save_bare("bert", tmp_path / "narrow", hidden_size=16), device="cpu")
    linear = Dense(16, 32, activation_function=nn.Identity())
    small = made_of(tmp_path / "narrow", tmp_path / "mapped", bare[1], linear, Normalize())
    both = stock(pair(small, full, tmp_path / "out").out)
    assert np.array_equal(both.encode_query(TEXTS), stock(small).encode_query(TEXTS))
    bent = made_of(tmp_path / "narrow", tmp_path / "bent", bare[1], Dense(16, 32), Normalize())
    assert "distilled from it" in refused("pair", bent, full, tmp_path / "other")


def test_unlike_similarities_are_refused(small, full, tmp_path, unread):
    other = changed(full, tmp_path / "other", similarity_fn_name="dot")
    message = refused("pair", small, other, tmp_path / "out")
    assert "compares vectors by cosine" in message and "by dot" in message


def test_what_is_no_encoder_is_refused(small, full, paired, tmp_path, unread):
    (tmp_path / "empty").mkdir()
    for side in ((tmp_path / "empty", full), (small, tmp_path / "empty")):
        assert "holds neither" in refused("pair", *side, tmp_path / "out")
    other = changed(full, tmp_path / "ranker", model_type="CrossEncoder")
    assert "is a CrossEncoder" in refused("pair", small, other, tmp_path / "out")


def test_nothing_is_written_over_what_is_there(small, full, tmp_path, unread):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "is not empty" in refused("pair", small, full, tmp_path / "out")
    assert "would be lost" in refused("pair", small, full, tmp_path / "out", "--force")
    (tmp_path / "out").rename(tmp_path / "new-documents")
    assert "is not empty" in refused("pair", small, full, tmp_path / "new", "--apart")
    assert not (tmp_path / "new").exists()


def test_a_tower_neither_holds_nor_is_what_is_written(small, full, unread):
    for place, how in (
        (small, "is"),
        (full, "is"),
        (full.parent, "holds"),
        (full / "x", "lies in"),
    ):
        message = refused("pair", small, full, place, "--force")
        assert f"{how} the model that is read" in message


def test_pruned_models_of_two_families_are_refused(tmp_path, small, unread):
    bare = save_bare("llama", tmp_path / "bare")
    encoder = load(bare, device="cpu", prompts=PROMPTS)
    plan = PruningPlan(base=BaseIdentity.of(encoder[0].model, "tiny"), drop_mlp=(1,))
    export(encoder, plan, tmp_path / "llama")
    message = refused("pair", small, tmp_path / "llama", tmp_path / "out")
    assert "pruned models of two families" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_gives_other_vectors_is_not_kept(small, full, tmp_path, monkeypatch):
    monkeypatch.setitem(writing._METHODS, "query", ("encode_document",))
    message = refused("pair", small, full, tmp_path / "out", "--apart", code=3)
    assert "gives other vectors than" in message
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_what_python_returns(small, full, tmp_path):
    told = effir_json("pair", small, full, tmp_path / "out")
    assert told["out"] == str(tmp_path / "out") and told["queries"] is None
    assert told["dimension"] == 32 and told["query_parameters"] < told["document_parameters"]
    done = effir("pair", small, full, tmp_path / "out", "--force", "--apart")
    assert "out-queries" in done.stdout and "mean cosine" in done.stdout
    assert effir("pair", small, full, tmp_path / "out", "--force", "-q").stdout == ""
