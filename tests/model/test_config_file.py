"""Damaged JSON in a model folder is refused by file and field, whatever reads the folder."""

from __future__ import annotations

import json
import shutil

import pytest
from sentence_transformers import SentenceTransformer
from tiny import save_bare

from effir_integrations import load
from effir_integrations.encoder.sources import find_source
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.rewrite import identity_on_disk
from effir_integrations.pruning.export import export_from_disk


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    load(save_bare("bert", folder / "bare"), device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture
def model(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def changed(**fields):
    return lambda content: {**content, **fields}


def without(name):
    return lambda modules: [{k: v for k, v in x.items() if k != name} for x in modules]


CONFIG, MODULES, POOLING = "config.json", "modules.json", "1_Pooling/config.json"
SETTINGS, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
TOKENIZER = "tokenizer.json"
DAMAGES = [
    (CONFIG, changed(model_type="nope"), "model_type='nope' is no type that"),
    (CONFIG, changed(model_type=["bert"]), r"model_type=\['bert'\] is no type"),
    (CONFIG, changed(model_type=None), "model_type=None is no type"),
    (MODULES, "{", "is not JSON .*; expected the list of modules"),
    (MODULES, lambda _: {"a": 1}, "holds no list of modules"),
    (MODULES, lambda _: [], "holds no list of modules"),
    (MODULES, lambda _: ["a"], "module 0: 'a' is no object with fields"),
    (MODULES, without("path"), "module 0: lacks the field 'path'"),
    (MODULES, without("type"), "module 0: lacks the field 'type'"),
    (MODULES, lambda x: [x[0], {**x[1], "path": 3}], "module 1: path=3 is not allowed; give a"),
    (SETTINGS, "{", "is not JSON"),
    (SETTINGS, lambda _: [1], "holds no JSON object"),
    (SETTINGS, changed(max_seq_length="12"), "max_seq_length='12' is not allowed; give an integer"),
    (PROMPTS, "", "is not JSON"),
    (PROMPTS, changed(prompts=["query: "]), "prompts=.* is not allowed"),
    (PROMPTS, changed(prompts={"query": 3}), r"prompts\['query'\]=3 is not allowed; give a string"),
    (POOLING, "{", "is not JSON"),
    (POOLING, lambda _: [], "holds no JSON object"),
    (POOLING, changed(pooling_mode="nope"), "pooling_mode='nope' is not known; choose from cls"),
    (POOLING, changed(pooling_mode=3), "pooling_mode=3 is not allowed"),
    (POOLING, changed(embedding_dimension="32"), "embedding_dimension='32' is not allowed"),
    (TOKENIZER, "{", "is no tokenizer"),
    (TOKENIZER, lambda _: [1], "is no tokenizer"),
    (TOKENIZER, changed(model={}), "is no tokenizer"),
    ("tokenizer_config.json", "{", "is not JSON"),
    ("tokenizer_config.json", lambda _: [1], "holds no JSON object"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damage_is_named_before_work(model, tmp_path, name, damage, message):
    plan = PruningPlan(base=identity_on_disk(model), drop_mlp=(1,))
    file = model / name
    old = json.loads(file.read_text())
    file.write_text(damage if isinstance(damage, str) else json.dumps(damage(old)))
    pattern = f"^{file}:? {message}"
    calls = [lambda: load(model), lambda: export_from_disk(model, plan, tmp_path / "out")]
    if name != TOKENIZER:  # not all verbs need one
        calls.append(lambda: find_source(model))
    for call in calls:
        with pytest.raises(ValueError, match=pattern) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_pooling_module_without_its_settings_is_named(model):
    shutil.rmtree(model / "1_Pooling")
    with pytest.raises(FileNotFoundError, match="1_Pooling/config.json is not there"):
        load(model)


def test_what_others_write_is_not_refused(model):
    """Several poolings, unknown fields, modules without a folder, types with code of their own."""
    pooling = json.loads((model / POOLING).read_text())
    edited = {**pooling, "pooling_mode": ["mean", "cls"]}
    (model / POOLING).write_text(json.dumps(edited))
    settings = json.loads((model / SETTINGS).read_text())
    (model / SETTINGS).write_text(json.dumps({**settings, "max_seq_length": None}))
    modules = json.loads((model / MODULES).read_text())
    (model / MODULES).write_text(json.dumps([{**module, "note": 1} for module in modules]))
    shutil.rmtree(model / "2_Normalize", ignore_errors=True)
    text = ["w1 w2"]
    expected = SentenceTransformer(str(model), device="cpu").encode(text)
    assert load(model, device="cpu").encode(text) == pytest.approx(expected, abs=1e-5)
    config = json.loads((model / CONFIG).read_text())
    own = {**config, "model_type": "nope", "auto_map": {"AutoModel": "m.M"}}
    (model / CONFIG).write_text(json.dumps(own))
    find_source(model)
