"""What a model's parts cost is told from times of whole models, which are as they were then."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from examples import tiny_encoder
from tiny import WORDS

from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning import costs as module
from effir_integrations.pruning.costs import (
    Costs,
    Workload,
    measure_costs,
    running,
    setting_of,
    thinned,
)

WORK = Workload(
    role="document",
    texts=tuple(" ".join(WORDS[x : x + 5]) for x in range(8)),
    batch=4,
    max_length=None,
)


def costs(**changed):
    """Four layers of 32 neurons: 8 ms of MLPs, 1 ms an attention, 2 ms of all else."""
    values = {
        "setting": {"machine": "one", "threads": 2},
        "mlp_widths": (32, 32, 32, 32),
        "shares": (0.0, 0.5, 1.0),
        "mlp": (0.0, 6.0, 8.0),
        "attention": 1.0,
        "attentions": 4,
        "rest": 2.0,
    }
    return Costs(**{**values, **changed})


def test_a_plan_costs_what_its_parts_do():
    table = costs()
    assert table.full == table.of((32, 32, 32, 32), 0) == 14
    assert table.of((0, 0, 0, 0), 4) == 2
    # a layer of 16 takes 6 / 4 ms, one of 8 half of that
    assert table.of((16, 8, 0, 32), 1) == 2 + 3 + (6 + 3 + 0 + 8) / 4


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_model_that_is_timed_is_as_it_was(family, tmp_path):
    encoder = tiny_encoder(family, tmp_path)
    model = transformer_model(encoder)
    before, vectors = copy.deepcopy(model.state_dict()), encoder.encode(list(WORK.texts))
    found = measure_costs(encoder, WORK, multiple_of=8, rounds=1)
    assert transformer_model(encoder) is model
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert (encoder.encode(list(WORK.texts)) == vectors).all()
    assert found.shares[0] == found.mlp[0] == 0 and found.shares[-1] == 1
    assert list(found.mlp) == sorted(found.mlp)
    assert found.full == pytest.approx(found.of(found.mlp_widths, 0))


def test_refitted_outputs_of_a_thinned_model_do_not_reach_the_full_one(tmp_path):
    model = transformer_model(tiny_encoder("bert", tmp_path))
    base = BaseIdentity.of(model)
    width = base.mlp_widths[0]
    plan = PruningPlan(
        base=base,
        neurons={0: torch.arange(width // 2)},
        outputs={
            0: {
                "weight": torch.ones(base.hidden_size, width // 2),
                "bias": torch.ones(base.hidden_size),
            }
        },
    )
    before = copy.deepcopy(model.state_dict())
    small = thinned(model, plan)
    assert any(bool((x == 1).all()) for name, x in small.named_parameters() if "dense.bias" in name)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    embeddings = (x.get_input_embeddings().weight for x in (model, small))
    assert len({weight.data_ptr() for weight in embeddings}) == 1


def test_an_encoder_runs_another_model_only_meanwhile(tmp_path):
    encoder = tiny_encoder("llama", tmp_path)
    model = transformer_model(encoder)
    bare = PruningPlan(base=BaseIdentity.of(model), drop_mlp=(0, 1))
    whole = encoder.encode(WORK.texts[0])
    with pytest.raises(KeyError), running(encoder, thinned(model, bare)):
        assert not (encoder.encode(WORK.texts[0]) == whole).all()
        raise KeyError
    assert transformer_model(encoder) is model
    assert (encoder.encode(WORK.texts[0]) == whole).all()


def test_costs_are_read_as_they_were_written(tmp_path):
    assert Costs.load(costs().save(tmp_path)) == costs(setting={"machine": "one", "threads": 2})


@pytest.mark.parametrize(
    ("name", "value"), [("machine", "another"), ("threads", 1)], ids=["machine", "threads"]
)
def test_costs_of_another_machine_are_refused_with_both(name, value, tmp_path):
    setting = {"machine": "one", "threads": 2, name: value}
    with pytest.raises(ValueError, match=rf"{name} .*{value}.*--force.*--out"):
        costs().check_setting(setting, tmp_path / "costs.json")


def test_what_costs_depend_on_is_named(tmp_path):
    encoder = tiny_encoder("llama", tmp_path)
    first = setting_of(encoder, WORK)
    assert first == setting_of(encoder, WORK)
    torch.set_num_threads(2)
    assert setting_of(encoder, WORK)["threads"] == 2 != first["threads"]
    assert first["tokens"] == 5 + (first["tokens"] - 5)  # words, and what the tokenizer adds
    json.dumps(first)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "holds no costs"), ('{"format": "effir-costs-1"}', "lacks the field 'setting'")],
)
def test_another_file_is_no_table_of_costs(content, message, tmp_path):
    (tmp_path / "costs.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Costs.load(tmp_path / "costs.json")


def test_a_model_of_one_attention_cannot_be_taken_apart(tmp_path):
    encoder = tiny_encoder("llama", tmp_path)
    model = transformer_model(encoder)
    layers = BaseIdentity.of(model).layers
    gone = PruningPlan(base=BaseIdentity.of(model), drop_attention=tuple(range(1, layers)))
    with running(encoder, thinned(model, gone)), pytest.raises(ValueError, match="1 attention"):
        module.measure_costs(encoder, WORK, multiple_of=8, rounds=1)
