"""The demo runs end to end, again after an interruption, and never over somebody's folder."""

from __future__ import annotations

import json
import os

import pytest
from tiny import save_bare

from effir_integrations.demo import VARIANTS, default_model, demo


def test_the_demo_compresses_and_compares_without_any_download(tmp_path):
    model = save_bare("bert", tmp_path / "base", intermediate_size=128)
    results = demo(str(model), tmp_path / "demo")
    assert len(results) == 1 + len(VARIANTS)
    assert results[0].documents > 1500
    full, *pruned = (result.parameters for result in results)
    assert all(parameters < full for parameters in pruned)
    table = json.loads((tmp_path / "demo" / "table.json").read_text())
    assert [row["parameters"] for row in table] == [full, *pruned]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="not empty"):
        demo("unused", tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


def test_the_default_model_is_the_one_of_the_extra(minilm):
    assert default_model() == minilm
