"""Settings and files whose fields have another type are refused, by field, before any work."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from tiny import save_bare, tiny_model

from effir_integrations import load
from effir_integrations.corpus.on_ray import ClusterConfig
from effir_integrations.data.calibration import load_calibration
from effir_integrations.encoder.history import history_of, read_history
from effir_integrations.files import write_json
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import ImportanceReport, PruningPlan
from effir_integrations.pruning.config import (
    CompressConfig,
    DropConfig,
    ReconstructConfig,
)
from effir_integrations.pruning.slim_config import SlimConfig
from effir_integrations.training.config import (
    AdaptConfig,
    DistillConfig,
    FinetuneConfig,
    TrainConfig,
)
from effir_integrations.training.distill import distill
from effir_integrations.training.losses import LossTerms
from effir_integrations.training.mine import mine

CONFIGS = (
    CompressConfig,
    DropConfig,
    ReconstructConfig,
    TrainConfig,
    SlimConfig,
    AdaptConfig,
    FinetuneConfig,
    DistillConfig,
    ClusterConfig,
    LossTerms,
)
NAN = float("nan")


def wrong_values(hint: Any) -> list[Any]:
    """Return values that an annotation does not allow."""
    optional = get_origin(hint) in (Union, types.UnionType)
    choices = {get_origin(one) or one for one in (get_args(hint) if optional else (hint,))}
    values = [(str, "word"), (bool, True), (float, 1.5), (type(None), None), (dict, {"a": 1})]
    allowed = {dict if one is Mapping else one for one in choices}
    return [object(), [1, "two"], NAN, math.inf] + [v for kind, v in values if kind not in allowed]


SETTINGS = [(cls, one.name) for cls in CONFIGS for one in fields(cls) if one.init]


@pytest.mark.parametrize(("cls", "name"), SETTINGS)
def test_a_setting_of_another_type_is_refused_by_name(cls, name) -> None:
    needed = {"keep_neurons": 0.5} if cls is ReconstructConfig else {}
    for value in wrong_values(get_type_hints(cls)[name]):
        with pytest.raises(ValueError, match=rf"^{name}(=|\[)") as caught:
            cls(**{**needed, name: value})
        assert "\n" not in str(caught.value)


def test_numbers_of_numpy_and_whole_numbers_for_shares_are_allowed() -> None:
    config = CompressConfig(drop_mlp=np.int64(2), keep_neurons=np.float32(0.5), seed=3)
    assert (type(config.drop_mlp), type(config.keep_neurons)) == (int, float)
    assert FinetuneConfig(temperature=1).temperature == 1


@pytest.fixture(scope="module")
def plan() -> PruningPlan:
    base = BaseIdentity.of(tiny_model("bert"), "tiny")
    return PruningPlan(
        base=base,
        drop_mlp=(1,),
        drop_attention=(0,),
        neurons={2: torch.tensor([0, 9, 40])},
        outputs={2: {"weight": torch.ones(32, 3), "bias": torch.zeros(32)}},
        made_by=({"stage": "drop", "config": {"mlp": 1}},),
    )


def damaged(content: Any) -> list[tuple[str, Any]]:
    """Return copies of a JSON object, each with one field of a type that it never has."""
    made = []
    for name, value in content.items():
        if name == "format":
            continue
        rest = {key: kept for key, kept in content.items() if key != name}
        made += [(name, {**rest, name: wrong}) for wrong in (True, 1.5, "word", [{}], [[1]])]
        made = [one for one in made if not (one[0] == name and _fits(one[1][name], value))]
        if isinstance(value, dict) and name == "base":
            made += [(inner, {**rest, name: part}) for inner, part in damaged(value)]
    return made


def _fits(wrong: Any, value: Any) -> bool:
    """Whether a value is of the type of another after all, empty objects in lists included."""
    if isinstance(value, list) and isinstance(wrong, list):
        return bool(value) and isinstance(value[0], dict) and wrong == [{}]
    return type(wrong) is type(value) or (value is None and isinstance(wrong, str))


def refuse_damaged(path: Path, read: Any) -> None:
    good = json.loads(path.read_text())
    assert read() is not None
    copies = damaged(good)
    assert len(copies) > 3 * len(good)
    for name, content in copies:
        write_json(path, content)
        with pytest.raises(ValueError, match=name) as caught:
            read()
        assert path.name in str(caught.value), name
    for name in good.keys() - {"format", "versions", "revision", "dropped_attention_before"}:
        write_json(path, {key: value for key, value in good.items() if key != name})
        with pytest.raises(ValueError, match=rf"{path.name}.*lacks the field '{name}'"):
            read()


def test_every_field_of_a_plan_is_checked(plan, tmp_path: Path) -> None:
    refuse_damaged(plan.save(tmp_path), lambda: PruningPlan.load(tmp_path))


def test_every_field_of_a_report_is_checked(plan, tmp_path: Path) -> None:
    scores = (0.25, 0.5, 0.75, 0.125)
    report = ImportanceReport(
        base=plan.base, calibration={"texts": 3}, attention=scores, mlp=scores, block=scores
    )
    refuse_damaged(report.save(tmp_path), lambda: ImportanceReport.load(tmp_path))
    for bad in (NAN, math.inf):
        with pytest.raises(ValueError, match=r"block\[1\]=(nan|inf)"):
            replace(report, block=(0.1, bad, 0.3, 0.4))
    with pytest.raises(ValueError, match="mlp scores 1 layers"):
        replace(report, mlp=(0.1,))


def test_every_field_of_a_history_is_checked(plan, tmp_path: Path) -> None:
    path = tmp_path / "effir.json"
    write_json(path, history_of(plan))
    refuse_damaged(path, lambda: read_history(tmp_path))


def test_a_plan_that_states_other_sizes_than_it_leaves_is_refused(plan, tmp_path: Path) -> None:
    path = plan.save(tmp_path)
    write_json(path, {**json.loads(path.read_text()), "parameters": 7})
    with pytest.raises(ValueError, match=r"plan\.json: mlp_widths or parameters"):
        PruningPlan.load(tmp_path)


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_a_plan_with_outputs_that_are_not_finite_is_refused(plan, bad) -> None:
    weight = torch.ones(32, 3)
    weight[5, 1] = bad
    with pytest.raises(ValueError, match="new MLP output weight of layer 2 holds NaN"):
        replace(plan, outputs={2: {"weight": weight}})


@pytest.mark.parametrize("kept", [[3, 1], [0, 0], [-1, 2], [0, 48], []])
def test_kept_neurons_that_the_base_has_not_are_refused(plan, kept) -> None:
    with pytest.raises(ValueError, match="kept neurons of layer 2"):
        replace(plan, neurons={2: torch.tensor(kept, dtype=torch.int64)})


def broken(folder: Path) -> Any:
    """Return an encoder with one NaN, put there after loading.

    In a value: PyTorch 2.13 makes zeros of scores that are all NaN, for up to seven tokens.
    """
    encoder = load(save_bare("bert", folder / "broken"), device="cpu")
    with torch.no_grad():
        next(x for n, x in encoder.named_parameters() if n.endswith("value.weight"))[0, 0] = NAN
    return encoder


def test_a_teacher_whose_vectors_are_not_finite_is_refused(tmp_path: Path) -> None:
    texts = load_calibration(["w1 w2", "w3"], limit=None)
    student = load(save_bare("bert", tmp_path / "student"), device="cpu")
    config = DistillConfig(steps=1, batch_size=2, precision="fp32")
    with pytest.raises(ValueError, match="teacher's vector of text 0 is not finite"):
        distill(student, broken(tmp_path), texts, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mining_with_vectors_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    rows = [{"query": f"w{i}", "pos": [f"w{i} w{i + 1}"], "neg": []} for i in range(8)]
    path, out = tmp_path / "train.jsonl", tmp_path / "mined.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"the vector of 'w.*' is not finite"):
        mine(broken(tmp_path), path, out, negatives=2)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"model_type": "ll', "not JSON"),
        ("[]", "no JSON object"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_attention_heads": 1.5}, "num_attention_heads"),
        ({"dtype": "flob"}, "dtype"),
    ],
)
def test_a_damaged_config_is_refused_with_its_name(text, field, tmp_path: Path) -> None:
    folder = save_bare("llama", tmp_path / "base")
    path = folder / "config.json"
    content = text if isinstance(text, str) else {**json.loads(path.read_text()), **text}
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=rf"base/config\.json.*{field}"):
        load(folder)
