"""Notebooks run from the first cell to the last, and hold what they gave."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from notebook_page import notebook_page
from pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWN = {
    "quickstart": {"image/png", "text/html"},
    "llama_index_rag": {"text/html"},
    "pyserini_beir": {"text/html"},
}
"""What cells show beside text; every notebook is named here."""
FOLDERS = re.compile(r"/(?:tmp|home|root|usr|work|Users|site-packages)/")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_it_was_run_in_order_and_without_an_error(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and not [x for x in outputs if x["output_type"] == "error"]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds >= SHOWN[notebook.stem]
    for output in outputs:
        for kind, said in {"text": output.get("text", ""), **output.get("data", {})}.items():
            if kind != "image/png":
                assert not FOLDERS.search(str(said)), kind


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_its_page_shows_what_the_cells_gave(notebook, tmp_path):
    page = notebook_page(notebook, tmp_path)
    content = json.loads(notebook.read_text(encoding="utf-8"))
    data = [x.get("data", {}) for cell in content["cells"] for x in cell.get("outputs", ())]
    tables = ["".join(x["text/html"]) for x in data if "text/html" in x]
    assert tables and all(f"\n\n{table}\n\n" in page for table in tables)
    assert len(list(tmp_path.glob("*.png"))) == sum("image/png" in x for x in data)


def slow_but(stem):
    """Name the notebooks, all but the quickest among the slow tests."""
    slow = [pytest.mark.slow]
    return [pytest.param(x, marks=[] if x.stem == stem else slow, id=x.name) for x in NOTEBOOKS]


@pytest.mark.parametrize("notebook", slow_but("llama_index_rag"))
def test_it_runs(notebook):
    if notebook.stem == "pyserini_beir":
        pytest.importorskip("pyserini")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    line = [sys.executable, str(ROOT / "notebooks" / "run.py"), str(notebook), "--check"]
    subprocess.run(line, check=True)
