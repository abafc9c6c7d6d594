"""Reports and plans come back as they were saved, and damaged ones are refused."""

from __future__ import annotations

import json
import os
import signal
from importlib.metadata import PackageNotFoundError
from itertools import count

import pytest
import torch
from tiny import tiny_model

from effir_integrations.cli.run_folder import plan_so_far
from effir_integrations.model.plan import BaseIdentity, ImportanceReport, PruningPlan, versions


@pytest.fixture(scope="module")
def base():
    return BaseIdentity.of(tiny_model("bert"), "tiny")


@pytest.fixture
def plan(base):
    return PruningPlan(
        base=base,
        drop_mlp=(1,),
        drop_attention=(0,),
        neurons={2: torch.tensor([0, 9, 40])},
        outputs={2: {"weight": torch.randn(32, 3), "bias": torch.randn(32)}},
        made_by=({"stage": "drop", "config": {"mlp": 1}},),
    )


def test_a_plan_comes_back_bitwise(plan, tmp_path):
    plan.save(tmp_path)
    again = PruningPlan.load(tmp_path)
    assert again.base == plan.base
    assert (again.drop_mlp, again.drop_attention) == (plan.drop_mlp, plan.drop_attention)
    assert again.mlp_widths == plan.mlp_widths == (48, 0, 3, 48)
    assert again.made_by == plan.made_by
    assert torch.equal(again.neurons[2], plan.neurons[2])
    assert all(torch.equal(again.outputs[2][k], v) for k, v in plan.outputs[2].items())


def test_a_report_comes_back_equal(base, tmp_path):
    report = ImportanceReport(
        base=base,
        calibration={"source": "sample", "texts": 3},
        attention=(0.1, None, 0.3, 0.2),
        mlp=(0.1, 0.2, 0.3, 1 / 3),
        block=(0.5, 0.2, 0.1, 0.7),
    )
    report.save(tmp_path)
    assert ImportanceReport.load(tmp_path) == report
    assert report.order("attention") == [0, 3, 2]


def test_the_fingerprint_does_not_depend_on_the_loaded_dtype():
    model = tiny_model("qwen2").to(torch.bfloat16)
    first = BaseIdentity.of(model, "tiny").fingerprint
    assert BaseIdentity.of(model.float(), "tiny").fingerprint == first


def test_the_fingerprint_sees_other_weights(family):
    first, second = (BaseIdentity.of(tiny_model(family, seed), "x") for seed in (1, 2))
    assert first.fingerprint != second.fingerprint


def test_a_missing_artifact_says_which_stage_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="`effir analyze`"):
        ImportanceReport.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="`effir drop or reconstruct`"):
        PruningPlan.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "something/9"}', "\x00"])
def test_a_damaged_plan_is_refused(plan, tmp_path, text):
    (plan.save(tmp_path)).write_text(text)
    with pytest.raises(ValueError, match="plan.json"):
        PruningPlan.load(tmp_path)


def test_tensors_of_another_run_are_refused(plan, base, tmp_path):
    plan.save(tmp_path)
    other = PruningPlan(base=base, neurons={2: torch.tensor([1, 2, 3])})
    other.save(tmp_path / "other")
    (tmp_path / "other" / "neurons.safetensors").rename(tmp_path / "neurons.safetensors")
    with pytest.raises(ValueError, match="not the one that plan.json was saved with"):
        PruningPlan.load(tmp_path)


def test_missing_tensors_are_named(plan, tmp_path):
    plan.save(tmp_path)
    (tmp_path / "outputs.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"outputs\.safetensors is missing"):
        PruningPlan.load(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_a_kill_while_a_plan_is_replaced_leaves_the_old_or_the_new(plan, base, tmp_path):
    other = PruningPlan(base=base, drop_mlp=(1,), neurons={2: torch.tensor([1, 2])})
    found = set()
    for number in count(1):
        plan.save(tmp_path)
        child = os.fork()
        if child == 0:
            left, replace = number, os.replace

            def stopping(*names):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(*names)

            os.replace = stopping
            other.save(tmp_path)
            os.kill(os.getpid(), signal.SIGKILL if left else signal.SIGTERM)
        ended = os.waitpid(child, 0)[1]
        found.add(PruningPlan.load(tmp_path).mlp_widths)
        if len(found) == 2:
            break
        assert ended == signal.SIGKILL
    assert found == {(48, 0, 3, 48), (48, 0, 2, 48)}
    plan.save(tmp_path)
    assert torch.equal(PruningPlan.load(tmp_path).neurons[2], plan.neurons[2])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_plan_that_is_to_be_replaced_is_read_without_its_tensors(plan, tmp_path):
    plan.save(tmp_path)
    (tmp_path / "neurons.safetensors").write_bytes(b"of another plan")
    again = PruningPlan.load(tmp_path, tensors=False)
    assert (again.drop_mlp, again.neurons) == ((1,), {})
    with pytest.raises(ValueError, match="pruned neurons already|not the one"):
        plan_so_far(tmp_path, force=False)
    assert plan_so_far(tmp_path, force=True).drop_mlp == (1,)


def test_a_layer_cannot_be_dropped_and_narrowed(base):
    with pytest.raises(ValueError, match=r"layers \[2\] are dropped and narrowed at once"):
        PruningPlan(base=base, drop_mlp=(2,), neurons={2: torch.tensor([1])})


def test_json_is_sorted_and_says_its_format(plan, tmp_path):
    text = plan.save(tmp_path).read_text()
    content = json.loads(text)
    assert content["format"] == "effir-plan/1"
    assert content["mlp_widths"] == [48, 0, 3, 48]
    assert text == json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_versions_are_stated_where_the_package_is_not_installed(monkeypatch):
    def version(name):
        if name == "effir-integrations":
            raise PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr("effir_integrations.model.plan.version", version)
    found = versions()
    assert found["effir-integrations"] == "not installed" and found["torch"] == "1.2"
