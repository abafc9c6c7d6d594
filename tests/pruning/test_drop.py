"""Which sublayers go: equations 4 and 5, explicit layers, and parameter targets."""

from __future__ import annotations

import pytest
from tiny import tiny_model

from effir_integrations.model.apply import apply
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import ImportanceReport
from effir_integrations.pruning.config import DropConfig
from effir_integrations.pruning.drop import drop


@pytest.fixture(scope="module")
def base():
    return BaseIdentity.of(tiny_model("llama"), "tiny")


@pytest.fixture(scope="module")
def report(base):
    return ImportanceReport(
        base=base,
        calibration={"source": "sample"},
        attention=(0.4, 0.1, 0.3, 0.2),
        mlp=(0.9, 0.2, 0.1, 0.2),
        block=(0.5, 0.4, 0.1, 0.3),
    )


def test_the_least_important_mlps_go_and_ties_go_by_layer(base, report):
    assert drop(base, DropConfig(mlp=1), report).drop_mlp == (2,)
    assert drop(base, DropConfig(mlp=2), report).drop_mlp == (1, 2)
    assert drop(base, DropConfig(mlp=3), report).drop_mlp == (1, 2, 3)


def test_attention_is_ranked_apart_from_mlps(base, report):
    plan = drop(base, DropConfig(mlp=1, attention=2), report)
    assert (plan.drop_mlp, plan.drop_attention) == ((2,), (1, 3))


def test_a_block_loses_both_and_the_others_are_chosen_among_the_rest(base, report):
    plan = drop(base, DropConfig(block=1, mlp=1, attention=1), report)
    assert (plan.drop_mlp, plan.drop_attention) == ((1, 2), (1, 2))


def test_last_blocks_and_named_layers_need_no_report(base):
    plan = drop(base, DropConfig(last_blocks=2, mlp_layers=(0,), attention_layers=(1,)))
    assert (plan.drop_mlp, plan.drop_attention) == ((0, 2, 3), (1, 2, 3))


def test_a_share_of_the_parameters_is_met_with_as_few_mlps_as_possible(base, report):
    share = 1 - 1.5 * base.mlp_parameters[0] / base.parameters
    plan = drop(base, DropConfig(keep_parameters=share), report)
    assert plan.drop_mlp == (1, 2)
    assert plan.parameters <= share * base.parameters
    one_fewer = drop(base, DropConfig(mlp=1), report)
    assert one_fewer.parameters > share * base.parameters


def test_a_number_of_parameters_counts_what_is_dropped_anyway(base, report):
    target = base.parameters - base.mlp_parameters[0]
    plan = drop(base, DropConfig(mlp_layers=(3,), parameters=target), report)
    assert plan.drop_mlp == (3,)


def test_the_plan_counts_parameters_as_the_model_does(family):
    model = tiny_model(family)
    plan = drop(BaseIdentity.of(model), DropConfig(mlp_layers=(0, 2), attention_layers=(1,)))
    assert plan.parameters == sum(p.numel() for p in apply(model, plan).parameters())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"mlp": -1}, "must be 0 or more"),
        ({"keep_parameters": 0.0}, "between 0 and 1"),
        ({"keep_parameters": 1.0}, "between 0 and 1"),
        ({"parameters": 0}, "must be positive"),
        ({"parameters": 10, "keep_parameters": 0.5}, "choose one"),
    ],
)
def test_bad_settings_are_refused_at_once(config, words):
    with pytest.raises(ValueError, match=words):
        DropConfig(**config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"mlp": 5}, "only 4 are left"),
        ({"block": 4}, "would leave none"),
        ({"last_blocks": 2, "block": 2}, "would leave none"),
        ({"attention": 4}, "would leave none, and no token would see another"),
        ({"mlp_layers": (4,)}, "layer 4 is out of range: the model has 4 layers"),
        ({"attention_layers": (-1,)}, "layer -1 is out of range"),
        ({"mlp_layers": (1, 1)}, "named twice"),
        ({"keep_parameters": 0.01}, "cannot be reached"),
        ({}, "nothing to drop"),
    ],
)
def test_impossible_plans_are_refused(base, report, config, words):
    with pytest.raises(ValueError, match=words):
        drop(base, DropConfig(**config), report)


def test_scores_are_asked_for_when_they_are_needed(base):
    with pytest.raises(ValueError, match="run `effir analyze` first"):
        drop(base, DropConfig(mlp=1))


def test_a_report_of_another_base_is_refused(report):
    other = BaseIdentity.of(tiny_model("llama", seed=5), "other")
    with pytest.raises(ValueError, match="made for tiny, but the weights of other differ"):
        drop(other, DropConfig(mlp=1), report)


def test_a_sublayer_that_the_base_lost_before_is_refused():
    model = tiny_model("mistral")
    once = apply(model, drop(BaseIdentity.of(model), DropConfig(mlp_layers=(1,))))
    with pytest.raises(ValueError, match="layer 1 has no MLP: it was dropped before"):
        drop(BaseIdentity.of(once), DropConfig(mlp_layers=(1,)))
