"""Fine-tune a pruned encoder for retrieval: contrastive loss and the teacher's scores (A.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.training_examples import TrainingData
from ..data.training_rows import has_scores
from ..encoder.loading import loaded
from ..progress import is_shown
from .config import FinetuneConfig
from .heal import heal
from .losses import LossTerms, RetrievalLoss
from .order import example_keys
from .stage import Stage, data_record, train, training_data

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.training_rows import Source


def finetune(
    model: SentenceTransformer | str | Path,
    data: TrainingData | Source,
    config: FinetuneConfig,
    out: str | Path,
    *,
    history: Mapping[str, Any] | None = None,
    negatives: int = 7,
    force: bool = False,
    show_progress: bool | None = None,
) -> SentenceTransformer:
    """Train an encoder on queries with positives and negatives, and write it as a folder.

    The loss is InfoNCE over the positive, the hard negatives and the batch (eq. 2) plus, where the
    examples carry a cross-encoder's scores, the KL divergence to them over each query's own
    candidates. What trains is a LoRA adapter on every projection that is left, merged at the end in
    fp32, or all weights. Checkpoints lie in `OUT.training` beside `out`, and are removed when `out`
    is written; a killed run resumes from them.

    Args:
        model: A pruned (or any) encoder, or the folder or name to load it from; a loaded one is
            used up.
        data: The examples, or what `load_training` takes; where they carry scores, the teacher is
            followed.
        config: How to train.
        out: Folder to write; must be new or empty unless `force`.
        history: Of the encoder, to continue; None begins one.
        negatives: Hard negatives of an example, where `data` is still to be read (the paper: 7).
        force: Replace what is there and start over.
        show_progress: Draw a progress bar;
            None: where someone watches, in a notebook or a terminal.

    Returns:
        The encoder as loaded from the written folder.

    Raises:
        FileExistsError: `out` holds something else and `force` was not given, or files of others.
        ValueError: The model carries an adapter, the checkpoints are of another run, `out` holds
            the model or lies in it, or another process trains into it.
        RuntimeError: The loss is not finite, or the merged model differs from the adapted one.
    """
    show_progress = is_shown(show_progress)
    encoder = loaded(model)
    if not isinstance(data, TrainingData):
        scored = config.teacher_weight > 0 and has_scores(data)
        data = training_data(
            encoder, data, config, negatives=negatives, scored=scored, show_progress=show_progress
        )
    weight = config.teacher_weight if data.scored else 0.0
    terms = LossTerms(
        temperature=config.temperature,
        teacher_weight=weight,
        teacher_temperature=config.teacher_temperature,
    )

    def run(work: Path) -> list[dict[str, float]]:
        loss = RetrievalLoss(encoder, terms, mini_batch_size=config.mini_batch_size)
        return train(
            encoder,
            data.dataset,
            loss,
            config,
            work,
            keys=example_keys(data.dataset),
            description="Fine-tuning",
            show_progress=show_progress,
        )

    stage = Stage(name="finetune", config=config, data=data_record(data))
    return heal(encoder, stage, run, Path(out), history=history, force=force)
