"""Heal a pruned encoder by its teacher's vectors: texts are enough, no labels are needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.calibration import calibrated
from ..encoder.encoder import transformer_model
from ..encoder.folder import source_of
from ..encoder.loading import loaded
from ..encoder.space_record import space_made_of
from ..encoder.tokenization import cut_to
from ..extras import import_extra
from ..files import new_file
from ..model.identity import BaseIdentity
from ..progress import is_shown, progress_bar
from .checkpoints import check_sealed, seal
from .config import DistillConfig
from .head import with_head
from .heal import heal
from .held_out import HeldOut, held_out_places
from .launch import is_main_process, is_sharded
from .losses import DistillationLoss
from .stage import Stage, train

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.calibration import Calibration
    from ..encoder.space_record import Space

logger = logging.getLogger(__name__)

HEAD_TEXTS = 4_000
"""At most so many texts does a Dense to another dimension need."""
TEACHER_FILE = "teacher.arrow"
TEACHER_LISTING = "teacher.json"


def distill(
    model: SentenceTransformer | str | Path,
    teacher: SentenceTransformer | str | Path,
    texts: Calibration | str | Path | Sequence[str] | None,
    config: DistillConfig,
    out: str | Path,
    *,
    teacher_texts: Calibration | Sequence[str] | None = None,
    history: Mapping[str, Any] | None = None,
    space: Space | None = None,
    force: bool = False,
    show_progress: bool | None = None,
) -> SentenceTransformer:
    """Train an encoder to give its teacher's vectors, and write it as a folder.

    The teacher runs once over the texts; its vectors are kept on disk. With `vectors` the loss is
    `|s - t|^2 = 2 - 2 cos(s, t)` of the unit vectors, with `similarities` the mean squared
    difference of all cosines within the batch. Where the teacher's vectors have another dimension
    and are the target, a Dense to it is put behind the student first, by least squares on the
    texts (LEAF, arXiv 2509.12539, trains one), and what is in front of it trains. Otherwise as
    `finetune`.

    With `vectors` one text of twenty, 128 at most, is held out: the mean cosine to the teacher's
    vectors there is logged before the first step, at each checkpoint and after the last.

    Args:
        model: A pruned encoder, or the folder or name to load it from; a loaded one is used up.
        teacher: The full model, most often; or where to load it from.
        texts: What both read: documents, queries or both, in the form in which they are encoded; a
            list, or what `load_calibration` takes.
        config: How to train.
        out: Folder to write; must be new or empty unless `force`.
        teacher_texts: What the teacher reads instead, text for text: the same behind prompts of its
            own, or behind none.
        history: Of the encoder, to continue; None begins one.
        space: Of a teacher that is given loaded, as of `space_made_of`: with the target `vectors`
            the folder says that queries can search its documents. None says nothing.
        force: Replace what is there and start over.
        show_progress: Draw progress bars;
            None: where someone watches, in a notebook or a terminal.

    Returns:
        The encoder as loaded from the written folder.

    Raises:
        FileExistsError: `out` holds something else and `force` was not given, or files of others.
        ValueError: There are more or fewer `teacher_texts` than texts, the model carries an
            adapter, the checkpoints are of another run, `out` holds a model that is read or lies in
            it, or another process trains into it.
        RuntimeError: The loss is not finite, or the merged model differs from the adapted one.
    """
    show_progress = is_shown(show_progress)
    if space is None and isinstance(teacher, str | Path):
        space = space_made_of(teacher)
    encoder, teacher, texts = loaded(model), loaded(teacher), calibrated(texts)
    ours, theirs = (x.get_embedding_dimension() for x in (encoder, teacher))
    read = texts if teacher_texts is None else calibrated(teacher_texts)
    if len(read) != len(texts):
        raise ValueError(
            f"{len(read)} teacher_texts for {len(texts)} texts; give one for each, in their order"
        )
    if config.target == "vectors" and ours != theirs:
        logger.info("a Dense is put behind the student, from %d to %d dimensions", ours, theirs)
        encoder = with_head(
            encoder,
            teacher,
            texts.texts[:HEAD_TEXTS],
            read.texts[:HEAD_TEXTS],
            max_length=config.max_length,
        )
    teacher_model = transformer_model(teacher)
    data = {
        "source": texts.source,
        "sha256": texts.sha256,
        "examples": len(texts.texts),
        "teacher": teacher_model.config.name_or_path,
        "teacher_fingerprint": BaseIdentity.of(teacher_model).fingerprint,
    }
    if teacher_texts is not None:
        data["teacher_sha256"] = read.sha256
    held: list[int] = []
    if config.target == "vectors":
        held = held_out_places(len(texts), config.batch_size, config.seed)
        data["held_out"] = len(held)

    def run(work: Path) -> list[dict[str, float]]:
        dataset = _with_vectors(texts.texts, read.texts, teacher, config, work, show_progress)
        left = sorted({*range(len(texts))} - {*held})
        # weights that are cut up between processes run inside the trainer alone
        watched = held and not is_sharded()
        return train(
            encoder,
            dataset.select(left),
            DistillationLoss(encoder, config.target),
            config,
            work,
            watch=HeldOut(encoder, dataset.select(held), config) if watched else None,
            description="Distilling",
            show_progress=show_progress,
        )

    stage = Stage(name="distill", config=config, data=data)
    return heal(
        encoder,
        stage,
        run,
        Path(out),
        history=history,
        force=force,
        sources=[source_of(teacher)],
        space=space if config.target == "vectors" else None,
    )


def _with_vectors(
    texts: Sequence[str],
    read: Sequence[str],
    teacher: SentenceTransformer,
    config: DistillConfig,
    work: Path,
    show_progress: bool,
) -> Any:
    """Return a dataset of texts and the teacher's vectors, memory-mapped from disk.

    The first process writes it, once; the others wait for it.

    Raises:
        ValueError: What an earlier run wrote was changed since.
    """
    datasets = import_extra("datasets", "train")
    path, listing = work / TEACHER_FILE, work / TEACHER_LISTING
    if is_main_process() and listing.is_file():
        check_sealed(listing)
    elif is_main_process():
        features = datasets.Features(
            text=datasets.Value("string"), label=datasets.List(datasets.Value("float32"))
        )
        with new_file(path) as partial:
            writer = datasets.arrow_writer.ArrowWriter(path=str(partial), features=features)
            with writer:
                for row in _rows(texts, read, teacher, config.max_length, show_progress):
                    writer.write(row)
                writer.finalize()
        seal(listing, [path])
    while not listing.is_file():
        time.sleep(0.2)
    return datasets.Dataset.from_file(str(path))


def _rows(
    texts: Sequence[str],
    read: Sequence[str],
    teacher: SentenceTransformer,
    max_length: int | None,
    show_progress: bool,
) -> Iterator[dict[str, Any]]:
    window = 1024
    bar = progress_bar(total=len(texts), desc="Teacher", unit="text", shown=show_progress)
    with bar:
        for start in range(0, len(texts), window):
            part = list(texts[start : start + window])
            given = list(read[start : start + window])
            found = teacher.encode(given, convert_to_tensor=True, **cut_to(teacher, max_length))
            vectors = found.float().cpu().numpy()
            if bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
                raise ValueError(
                    f"the teacher's vector of text {start + bad[0]} is not finite; check its "
                    "weights, or load it in fp32"
                )
            for text, vector in zip(part, vectors, strict=True):
                yield {"text": text, "label": vector}
            bar.update(len(part))
