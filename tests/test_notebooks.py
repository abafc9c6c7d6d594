"""Notebooks run from the first cell to the last, and hold what they gave."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_it_was_run_in_order_and_without_an_error(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and not [x for x in outputs if x["output_type"] == "error"]
    assert "image/png" in {kind for output in outputs for kind in output.get("data", {})}
    assert "/tmp/" not in notebook.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs(notebook):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    line = [sys.executable, str(ROOT / "notebooks" / "run.py"), str(notebook), "--check"]
    subprocess.run(line, check=True)
