"""Run a notebook from the first cell to the last, and keep what its cells print and draw.

    python notebooks/run.py notebooks/quickstart.ipynb

It runs in a temporary folder. Progress bars and warnings are left out of what is kept; `--check`
keeps nothing, and fails where a cell does. Needs `pip install "effir-integrations[notebooks]"`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

_SECONDS = 900


def run(notebook: Path, *, keep: bool) -> None:
    """Execute a notebook.

    Args:
        notebook: File.
        keep: Write the outputs into it.

    Raises:
        CellExecutionError: A cell failed.
    """
    content = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # memory and time of a cell are those of the kernel, which lives in this folder
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(
            content, timeout=_SECONDS, resources=resources, coalesce_streams=True
        )
        client.execute()
    if not keep:
        return
    for cell in content.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            kept = (_without_folder(output, folder) for output in cell.outputs)
            cell.outputs = [output for output in kept if not _is_noise(output)]
    content.metadata.pop("widgets", None)
    nbformat.write(content, notebook)


def _is_noise(output: nbformat.NotebookNode) -> bool:
    """Say whether an output is a bar or a warning."""
    bar = "application/vnd.jupyter.widget-view+json"
    return output.get("name") == "stderr" or bar in output.get("data", {})


def _without_folder(output: nbformat.NotebookNode, folder: str) -> nbformat.NotebookNode:
    """Return an output that does not name the temporary folder."""
    data = output.get("data", {})
    for kind, text in data.items():
        if isinstance(text, str) and folder in text:
            data[kind] = text.replace(f"{folder}{os.sep}", "")
    if "text" in output:
        output.text = output.text.replace(f"{folder}{os.sep}", "")
    return output


def main() -> None:
    """Run the notebooks that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true", help="keep no output")
    options = parser.parse_args()
    for notebook in options.notebooks:
        run(notebook, keep=not options.check)


if __name__ == "__main__":
    main()
