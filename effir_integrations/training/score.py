"""Score the passages of a training file with a cross-encoder, for distillation."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from effir_integrations.data.jsonl import check_text_file, read_jsonl
from effir_integrations.data.text import clean_text
from effir_integrations.data.training_rows import TrainingRow, check_new_jsonl, parse_row
from effir_integrations.files import new_file
from effir_integrations.html_table import html_fields

from ..progress import is_shown, progress_bar

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_WINDOW = 256
"""Lines scored and written at a time; their passages are batched by length."""
_SCORING_HEADS = ("ForSequenceClassification", "ForCausalLM")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What `score` wrote."""

    path: Path
    """The .jsonl file."""
    queries: int
    """Lines."""
    passages: int
    """Scores: positives and negatives of all lines together."""

    def _repr_html_(self) -> str:
        """Return the fields, as a notebook shows them."""
        return html_fields("Scored", vars(self))


def score(
    model: str | Path | CrossEncoder,
    source: str | Path,
    out: str | Path,
    *,
    batch_size: int = 32,
    show_progress: bool | None = None,
    force: bool = False,
) -> Scored:
    """Copy a training file with `pos_scores` and `neg_scores` added to each line.

    Scores are raw logits: no sigmoid is applied (`activation_fn=torch.nn.Identity()`), whatever the
    model's own default. A softmax over the passages of a query, which distillation takes, needs
    them so. The query is scored as it stands, without any prompt. Earlier scores are replaced,
    all other keys stay. All lines are checked before the first is scored.

    Args:
        model: A cross-encoder with one label, or its folder or hub name. By name it is loaded from
            safetensors, and code in its folder is not run.
        source: A .jsonl file as `load_training` takes it.
        out: The .jsonl file to write; it may be `source` with `force`.
        batch_size: Pairs in each batch.
        show_progress: Show a bar over the lines;
            None: where someone watches, in a notebook or a terminal.
        force: Replace `out`.

    Raises:
        FileExistsError: If `out` exists and `force` was not given.
        FileNotFoundError: If there is no such file or no such model.
        ValueError: If a line cannot be used, the model gives no single score for a pair, or its
            weights are missing, NaN, infinite or not those that its config asks for.
        RuntimeError: If a score is not finite.
    """
    show_progress = is_shown(show_progress)
    out, path = Path(out), _source_path(source)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} is not allowed; give an integer from 1 up.")
    check_new_jsonl(out, force=force)
    with new_file(out) as partial:
        passages = _write_scored(model, path, partial, batch_size, show_progress)
    return Scored(path=out, queries=len(passages), passages=sum(passages))


def _write_scored(
    model: CrossEncoder | str | Path, path: Path, out: Path, batch_size: int, show_progress: bool
) -> list[int]:
    """Write all lines with their scores and return how many passages each has."""
    passages = [len(row.positives) + len(row.negatives) for row, _ in _rows(path)]
    if not passages:
        raise ValueError(f"{path}: holds no line to score; give at least one.")
    scorer = _load(str(model)) if isinstance(model, (str, Path)) else model
    if scorer.num_labels != 1:
        raise ValueError(
            f"the cross-encoder gives {scorer.num_labels} labels for a pair, and distillation "
            "needs one score; choose a reranker with one label."
        )
    bar = progress_bar(total=len(passages), desc="Scoring", unit="query", shown=show_progress)
    rows = _rows(path)
    with bar, out.open("w", encoding="utf-8") as stream:
        while window := list(islice(rows, _WINDOW)):
            for line in _scored_lines(scorer, window, batch_size):
                # A lone surrogate, which JSON can spell, is no UTF-8.
                stream.write(clean_text(json.dumps(line, ensure_ascii=False)) + "\n")
            bar.update(len(window))
    return passages


def _source_path(source: str | Path) -> Path:
    return check_text_file(os.path.expanduser(source), "a .jsonl file with query, pos and neg")


def _rows(path: Path) -> Iterator[tuple[TrainingRow, dict[str, Any]]]:
    for number, raw in read_jsonl(path):
        yield parse_row(raw, where=f"{path} line {number}", number=number), raw


def _load(model: str) -> CrossEncoder:
    from effir_integrations.encoder.sources import (
        config_place,
        find_source,
        read_config,
        transformer_folder,
    )
    from effir_integrations.model.config_file import check_tokenizer
    from effir_integrations.model.peft_folder import find_adapter
    from effir_integrations.training.cross_encoder import CheckedCrossEncoder

    name = find_source(model)
    check_tokenizer(transformer_folder(Path(name)))
    config = None if (Path(name) / "modules.json").is_file() else read_config(name)
    if find_adapter(config_place(name)) is not None:
        raise ValueError(
            f"{name} carries an adapter, and only encoders are merged with theirs; merge it with "
            "peft (merge_and_unload), save that, and give its folder."
        )
    if config is not None:
        # Such a model would be given a random head, and a log line.
        _check_head(name, config)
    try:
        return CheckedCrossEncoder(
            name, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{name}: no cross-encoder with safetensors can be loaded ({reason}); give its folder, "
            "or a hub name that can be reached."
        ) from error


def _check_head(name: str, config: Any) -> None:
    architectures = config.architectures or []
    if not any(str(found).endswith(_SCORING_HEADS) for found in architectures):
        raise ValueError(
            f"{name} is a {', '.join(map(str, architectures)) or 'model of no named class'}, which "
            "scores no pairs; give a cross-encoder (a reranker), not an encoder."
        )


def _scored_lines(
    model: CrossEncoder, window: list[tuple[TrainingRow, dict[str, Any]]], batch_size: int
) -> Iterator[dict[str, Any]]:
    pairs = [(row.query, text) for row, _ in window for text in (*row.positives, *row.negatives)]
    logits = model.predict(
        pairs,
        batch_size=batch_size,
        show_progress_bar=False,
        activation_fn=torch.nn.Identity(),
        convert_to_tensor=True,
    )
    scores = iter(torch.as_tensor(logits).float().tolist())  # (pairs,)
    for row, raw in window:
        positive = list(islice(scores, len(row.positives)))
        negative = list(islice(scores, len(row.negatives)))
        if not all(math.isfinite(value) for value in (*positive, *negative)):
            raise RuntimeError(
                f"{row.where}: the cross-encoder gave a score that is not finite; nothing was "
                "written: load it in float32."
            )
        yield {**raw, "pos_scores": positive, "neg_scores": negative}
