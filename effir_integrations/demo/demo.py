"""Compress a real decoder on real text that every Python has, and compare the results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.beir import load_beir
from ..data.calibration import load_calibration
from ..encoder.encoder import role_prompt, transformer_model
from ..encoder.loading import load
from ..encoder.mini import MINI
from ..evaluation.compare import compare
from ..files import check_target, write_json
from ..model.identity import BaseIdentity
from ..pruning.compress import compress
from ..pruning.config import CompressConfig
from .docstrings import build_docstring_corpus
from .questions import ask

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder
    from ..evaluation.evaluate import Evaluation
    from .questions import Asked

DROP_ONLY, COARSE_TO_FINE = "drop-only", "coarse-to-fine"
MLPS = 8
"""MLPs of effir-mini, of which the next is a part; other models lose the same share."""
DROPPED_MLPS = 5
"""MLPs that go: depth."""
KEEP_NEURONS = 0.5
"""Share of the neurons of the other MLPs that stays in `coarse-to-fine`: then width."""
CALIBRATION_DOCUMENTS = 256
"""Documents that importance, neurons and refits are measured on, beside the shipped texts."""
DTYPE = "fp32"
"""Of the comparison: any machine is quick in it, and ranks the same."""
SPEED_ROUNDS = 5
"""Times that each model is timed, in turns."""

_TEXTS, _TABLE, _QUESTIONS = "docstrings", "table.json", "questions.json"


def demo(
    model: str | None = None,
    out: Path = Path("effir-demo"),
    *,
    show_progress: bool = False,
) -> list[Evaluation]:
    """Build a retrieval set from docstrings, compress a model in two ways, and compare them.

    Queries are the first paragraphs of docstrings of the standard library, documents the rest, so
    nothing is downloaded. Of these, compression reads documents, no query and no judgement.

    Args:
        model: Folder or hub name; None takes effir-mini, which comes with the package.
        out: Folder for the text, the compressed models and `table.json`; replaced if it is a
            demo's.
        show_progress: Draw bars over long steps.

    Returns:
        Figures of the full model, without some MLPs (`drop-only`), and without neurons of the
        others as well (`coarse-to-fine`).

    Raises:
        ImportError: The `[eval]` extra is not installed.
        FileExistsError: `out` holds something else than a demo.
        FileNotFoundError: There is no such model.
        ValueError: The model's family is not supported, or it has fewer than two MLPs.
    """
    base = MINI if model is None else model
    data = out / _TEXTS
    # a demo that was interrupted has its text already, which is how it is told from other folders
    if not data.is_dir():
        check_target(out, force=False)
    full = load(base)
    settings = _settings(full)
    if not data.is_dir():
        build_docstring_corpus(data, show_progress=show_progress)
    texts = load_beir(data, show_progress=show_progress)
    documents = list(texts.documents.values())
    calibration = calibration_texts(full, documents)
    for name, config in settings.items():
        compress(
            base,
            out / name,
            replace(config, calibration_texts=len(calibration)),
            texts=calibration,
            force=True,
            show_progress=show_progress,
        )
    folders = [out / name for name in settings]
    results = compare(
        [base, *folders],
        texts,
        dtype=DTYPE,
        speed_rounds=SPEED_ROUNDS,
        show_progress=show_progress,
    )
    write_json(out / _TABLE, [result.to_json() for result in results])
    return results


def ask_demo(out: Path = Path("effir-demo"), *, show_progress: bool = False) -> Asked:
    """Put questions about Python's library to the coarse-to-fine model of a demo.

    Args:
        out: Folder that `demo` wrote; `questions.json` is added.
        show_progress: Draw bars over long steps.

    Raises:
        FileNotFoundError: `demo` has not written there.
    """
    documents = load_beir(out / _TEXTS).documents
    asked = ask(out / COARSE_TO_FINE, documents, out / "indexes", show_progress=show_progress)
    write_json(out / _QUESTIONS, asked.to_json())
    return asked


def _settings(full: Encoder) -> dict[str, CompressConfig]:
    """Return what goes of this model, by the name of the result.

    Raises:
        ValueError: It has too few MLPs to drop one and keep one.
    """
    mlps = sum(width > 0 for width in BaseIdentity.of(transformer_model(full)).mlp_widths)
    if mlps < 2:
        raise ValueError(f"the model has {mlps} MLPs, too few to drop one; choose another model")

    dropped = min(mlps - 1, max(1, round(DROPPED_MLPS * mlps / MLPS)))
    return {
        DROP_ONLY: CompressConfig(drop_mlp=dropped),
        COARSE_TO_FINE: CompressConfig(drop_mlp=dropped, keep_neurons=KEEP_NEURONS),
    }


def calibration_texts(encoder: Encoder, documents: Iterable[str]) -> list[str]:
    """Return the shipped texts and some of the documents, these in the form they are encoded in."""
    drawn = load_calibration(list(documents), limit=CALIBRATION_DOCUMENTS).texts
    prompt = role_prompt(encoder, "document")
    return [*load_calibration().texts, *(prompt + text for text in drawn)]
