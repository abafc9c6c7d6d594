"""Run one training stage so that it can be killed at any moment and resumes exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.training_examples import TrainingData, load_training
from ..encoder.encoder import role_prompt, transformer_model
from ..encoder.tokenization import token_limit
from ..extras import import_extra
from ..files import read_json, write_json
from ..model.identity import BaseIdentity
from .checkpoints import WHOLE, check_sealed, last_checkpoint, remove_partial_checkpoints
from .config import HELD_OUT, TrainConfig
from .launch import is_main_process
from .order import Example, training_order

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

    from ..data.training_examples import TrainingData
    from ..data.training_rows import Source

MANIFEST = "training.json"
MANIFEST_FORMAT = "effir-training/1"
_NO_EFFECT = ("save_steps", "report_to")
"""Settings that change no result, so a resumed run may have others."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything that a stage's result depends on, besides the model itself."""

    name: str
    """slim, adapt, finetune or distill."""
    config: TrainConfig
    """Its settings."""
    data: Mapping[str, Any]
    """source, sha256 and examples of what it trains on."""

    def record(self) -> dict[str, Any]:
        """Return the entry of this stage in a history."""
        return {"stage": self.name, "config": asdict(self.config), "data": dict(self.data)}

    def manifest(self, encoder: SentenceTransformer) -> dict[str, Any]:
        """Return what a folder of checkpoints must have been made with to resume from it."""
        apart = (*_NO_EFFECT, *self.config.after_training)
        config = {name: x for name, x in asdict(self.config).items() if name not in apart}
        model = BaseIdentity.of(transformer_model(encoder)).fingerprint
        return {
            "format": MANIFEST_FORMAT,
            "stage": self.name,
            "config": config,
            "data": dict(self.data),
            "model": model,
        }

    def is_among(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Say whether a history's records hold this very stage."""
        ours = _identity(json.loads(json.dumps(self.record())))
        return any(_identity(record) == ours for record in records)


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    config = {k: v for k, v in record.get("config", {}).items() if k not in _NO_EFFECT}
    return {"stage": record.get("stage"), "config": config, "data": record.get("data")}


def data_record(data: TrainingData) -> dict[str, Any]:
    """Return what a history says of training examples."""
    return {"source": data.source, "sha256": data.sha256, "examples": len(data)}


def prepare_work(work: Path, manifest: Mapping[str, Any], *, force: bool) -> None:
    """Make the folder of checkpoints, or check that the one there belongs to this very stage.

    Raises:
        ValueError: It is of another configuration, data or model, or the checkpoint to resume from
            is damaged; the text says what differs.
    """
    if is_main_process():
        if force:
            shutil.rmtree(work, ignore_errors=True)
        remove_partial_checkpoints(work)
        checkpoint = last_checkpoint(work)
        if (work / MANIFEST).is_file():
            _check_manifest(work, manifest)
            if checkpoint is not None:
                check_sealed(checkpoint / WHOLE)
        elif checkpoint is not None:
            raise ValueError(
                f"{work} holds {checkpoint.name} but no {MANIFEST}, which says what run it is of; "
                "put it back, or start over (--force)"
            )
        else:
            work.mkdir(parents=True, exist_ok=True)
            write_json(work / MANIFEST, manifest)


def _check_manifest(work: Path, manifest: Mapping[str, Any]) -> None:
    found = _flat(read_json(work / MANIFEST, "the manifest of a training run"))
    wanted = _flat(json.loads(json.dumps(manifest)))
    differing = [
        f"{key} {found.get(key)!r} then, {wanted.get(key)!r} now"
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    ]
    if differing:
        raise ValueError(
            f"{work} holds checkpoints of another run ({'; '.join(differing)}); resume with the "
            "settings it was begun with, or start over (--force)"
        )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def train(
    encoder: SentenceTransformer,
    dataset: Any,
    loss: nn.Module,
    config: TrainConfig,
    work: Path,
    *,
    keys: Sequence[Example] | None = None,
    learning_rates: Mapping[str, float] | None = None,
    watch: Callable[[], dict[str, float]] | None = None,
    description: str = "Training",
    show_progress: bool = False,
) -> list[dict[str, float]]:
    """Train what requires gradients, in place, resuming from the last whole checkpoint in `work`.

    Args:
        encoder: The model, its trainable parameters in fp32.
        dataset: Columns of texts, and `label` where the loss needs one.
        loss: Holds the encoder as `model`.
        config: How.
        work: Folder of checkpoints, as `prepare_work` leaves it.
        keys: Which examples must not share a batch; see `training_order`.
        learning_rates: Pattern of parameter names -> their own learning rate.
        watch: Measures the encoder; called before the first step, at each checkpoint and after the
            last.
        description: Of the progress bar.
        show_progress: Draw it.

    Returns:
        What was logged: step, loss and its terms; and step and figures of `watch`.

    Raises:
        ValueError: The batch cannot be filled or not be shared by the processes.
        RuntimeError: The loss is not finite; names the step and the last good checkpoint.
    """
    import_extra("accelerate", "train")
    from .trainer import StageTrainer

    steps = config.steps_for(len(dataset))
    order = training_order(
        len(dataset),
        batch_size=config.batch_size,
        steps=steps,
        seed=config.seed,
        keys=keys,
        lengths=_lengths(dataset) if config.similar_lengths else None,
    )
    with dropout(encoder, config.model_dropout):
        trainer = StageTrainer.for_stage(
            encoder,
            dataset.select(order),
            loss,
            config,
            work,
            steps=steps,
            learning_rates=dict(learning_rates or {}),
            bar=(description, show_progress and is_main_process()),
            watch=watch,
        )
        trainer.data_collator.max_length = token_limit(encoder, config.max_length)
        # the first process may have cleared the folder a moment ago
        trainer.accelerator.wait_for_everyone()
        checkpoint = last_checkpoint(work)
        trainer.go_on_from(checkpoint, steps)
    encoder.eval()
    return [
        {name: value for name, value in entry.items() if isinstance(value, (int, float))}
        for entry in trainer.state.log_history
        if "loss" in entry or HELD_OUT in entry
    ]


def _lengths(dataset: Any) -> list[int]:
    """Return the characters of each example's longest text, near enough to its tokens."""
    columns = [name for name in dataset.column_names if name != "label"]
    return [
        max(len(text) for text in texts)
        for batch in dataset.select_columns(columns).iter(batch_size=1000)
        for texts in zip(*(batch[name] for name in columns), strict=True)
    ]


@contextmanager
def dropout(encoder: SentenceTransformer, on: bool) -> Iterator[None]:
    """Switch the model's own dropout off while the context lasts, unless it is to stay on."""
    before = [] if on else [
        (module, name, getattr(module, name))
        for module in transformer_model(encoder).modules()
        for name in ("p", "attention_dropout")
        if isinstance(getattr(module, name, None), float)
    ]  # fmt: skip
    try:
        for module, name, _ in before:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, share in before:
            setattr(module, name, share)


def training_data(
    encoder: SentenceTransformer,
    data: TrainingData | Source,
    config: TrainConfig,
    *,
    negatives: int = 7,
    scored: bool = False,
    show_progress: bool = False,
) -> TrainingData:
    """Return examples as they are, and read what else is given, with the model's prompts.

    Raises:
        FileNotFoundError: As of `load_training`.
        ValueError: As of `load_training`.
    """
    if isinstance(data, TrainingData):
        return data
    return load_training(
        data,
        negatives=negatives,
        scored=scored,
        query_prompt=role_prompt(encoder, "query"),
        document_prompt=role_prompt(encoder, "document"),
        tokenizer=encoder.tokenizer,
        max_query_tokens=token_limit(encoder, config.max_length),
        seed=config.seed,
        show_progress=show_progress,
    )
