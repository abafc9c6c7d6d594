"""What fine-tuning and distillation share: adapt, train, merge, check, write."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..encoder.encoder import transformer_model
from ..encoder.folder import probe, save, saved_bytes, source_of
from ..encoder.history import history_at, in_space, read_history, with_stage
from ..encoder.loading import load
from ..files import check_apart, check_target, claimed
from ..files.locks import locked
from ..model.identity import BaseIdentity
from ..model.peft_folder import with_bases
from ..model.surgery import restore_dtypes, widen
from .config import HELD_OUT, HealConfig
from .launch import is_main_process, is_sharded
from .lora import add_lora, check_no_adapter, merge_lora
from .stage import Stage, prepare_work

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..encoder.space_record import Space

logger = logging.getLogger(__name__)


def work_folder(out: Path) -> Path:
    """Return where the checkpoints of a model that is being trained lie."""
    return out.with_name(f"{out.name}.training")


def heal(
    encoder: SentenceTransformer,
    stage: Stage,
    run: Callable[[Path], list[dict[str, float]]],
    out: Path,
    *,
    history: Mapping[str, Any] | None,
    force: bool,
    sources: Sequence[str] = (),
    space: Space | None = None,
) -> SentenceTransformer:
    """Train by `run` and write the merged model; a finished `out` of this very stage is kept.

    Args:
        encoder: The model that `run` trains, in place.
        stage: What is done, for the manifest and the history.
        run: Trains with checkpoints in the folder it is given, and returns what was logged.
        out: Folder to write.
        history: Of the encoder so far; None begins one.
        force: Replace what is there and start over.
        sources: Models that are read besides the encoder.
        space: Which the stage leads to; None is one of its own.

    Returns:
        The encoder as loaded from `out`; in processes that do not write, the one in memory.

    Raises:
        FileExistsError: `out` holds something else and `force` was not given, or files of others.
        ValueError: The encoder carries an adapter, the checkpoints are of another run, `out` holds
            a model that is read or lies in it, or another process trains into it.
        RuntimeError: The loss is not finite, or the merged model differs from the adapted one.
    """
    config = stage.config
    if not isinstance(config, HealConfig):
        raise TypeError(f"{type(config).__name__} does not say which weights train")
    model: Any = transformer_model(encoder)
    check_no_adapter(model)
    before = BaseIdentity.of(model).fingerprint
    # of several processes one writes, and it holds the checkpoints beside `out` as well
    with locked(out) if is_main_process() else nullcontext():
        if not force and _is_done(out, stage, before):
            if is_main_process():  # a run that was killed while it cleaned up
                shutil.rmtree(work_folder(out), ignore_errors=True)
            return load(out, device=str(encoder.device))
        if history is None:
            history = history_at(encoder, source_of(encoder))
        check_apart(out, with_bases([source_of(encoder), *sources]))
        if not is_main_process():
            check_target(out, force=force)
            return _train(encoder, stage, run, out, history, before, force, space)
        with claimed(out, force=force, needed_bytes=saved_bytes(encoder)):
            return _train(encoder, stage, run, out, history, before, force, space)


def _train(
    encoder: SentenceTransformer,
    stage: Stage,
    run: Callable[[Path], list[dict[str, float]]],
    out: Path,
    history: Mapping[str, Any],
    before: str,
    force: bool,
    space: Space | None,
) -> SentenceTransformer:
    config: Any = stage.config
    model: Any = transformer_model(encoder)
    work, dtype = work_folder(out), model.dtype
    prepare_work(work, stage.manifest(encoder), force=force)
    dtypes = _choose_trained(encoder, config)
    log = run(work)
    if is_sharded():
        logger.warning(
            "trained; run the same command in a single process to merge and write %s", out
        )
        return encoder
    _finish(encoder, config, dtype, dtypes)
    if not is_main_process():
        return encoder
    losses, held = ([x for x in log if name in x] for name in ("loss", HELD_OUT))
    record = {**stage.record(), "model": before, "log": losses[:1] + losses[-1:]}
    if held:
        record[HELD_OUT] = {"before": held[0][HELD_OUT], "after": held[-1][HELD_OUT]}
    history = in_space(with_stage(history, record), space)
    made = save(encoder, history, out, force=force)
    shutil.rmtree(work, ignore_errors=True)
    return made


def _is_done(out: Path, stage: Stage, model: str) -> bool:
    last = (read_history(out) or {}).get("made_by", ())[-1:]
    return stage.is_among(last) and last[0].get("model") == model


def _choose_trained(
    encoder: SentenceTransformer, config: HealConfig
) -> dict[str, torch.dtype] | None:
    """Make ready what trains; return the dtypes to go back to where weights were widened."""
    model = transformer_model(encoder)
    encoder.requires_grad_(False)
    if config.trains == "lora":
        add_lora(
            model,
            rank=config.rank,
            alpha=config.alpha,
            dropout=config.adapter_dropout,
            seed=config.seed,
        )
        return None
    model.requires_grad_(True)
    # steps of the optimizer are smaller than what half precision can tell apart
    return widen(model)


def _finish(
    encoder: SentenceTransformer,
    config: HealConfig,
    dtype: torch.dtype,
    dtypes: Mapping[str, torch.dtype] | None,
) -> None:
    encoder.eval()
    if dtypes is None:
        adapted = probe(encoder)
        merge_lora(transformer_model(encoder))
        check_merged(adapted, probe(encoder), dtype)
    else:
        restore_dtypes(transformer_model(encoder), dtypes)
    encoder.requires_grad_(True)


def check_merged(adapted: torch.Tensor, merged: torch.Tensor, dtype: torch.dtype) -> None:
    """Compare vectors before and after a merge: 1e-5 of the largest value in fp32.

    In half precision the merged weight is rounded once more, which the cosine must not show.

    Raises:
        RuntimeError: They differ by more.
    """
    difference = ((adapted - merged).abs().max() / adapted.abs().max()).item()
    cosine = torch.nn.functional.cosine_similarity(adapted, merged, dim=-1).min().item()
    if difference > 1e-5 if dtype == torch.float32 else cosine < 0.99:
        raise RuntimeError(
            f"the merged model differs from the adapted one by {difference:.2g} of the largest "
            f"value (cosine down to {cosine:.6f}); nothing was written, please report this with "
            "the model's name"
        )
