"""docs/models.md is what its script writes, and copies no figure that is not measured."""

from __future__ import annotations

import pytest
from models_on_the_hub import KEPT
from models_page import PAGE, page
from pages import ROOT

from effir_integrations.model.families import ARCHITECTURES


def test_the_page_is_what_the_table_and_the_notes_give():
    assert PAGE.read_text() == page(), "run `python benchmarks/models_page.py`"


def test_every_family_has_a_line():
    lines = page().partition("## On the hub")[0].splitlines()
    for family, row in ARCHITECTURES.items():
        assert sum(x.startswith(f"| {row.class_prefix} | `{family}` |") for x in lines) == 1


@pytest.mark.parametrize(("model", "pruned", "share"), KEPT)
def test_what_a_model_keeps_stands_in_the_benchmarks(model, pruned, share):
    lines = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()
    assert any(pruned in line and f"| {share} |" in line for line in lines), model
