"""What the training verbs read: the encoder of a folder, and texts as it encodes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..model.plan import PLAN_FILE, PruningPlan

if TYPE_CHECKING:
    from ..data.calibration import Calibration
    from ..encoder.encoder import Encoder


def load_source(
    source: Path, model: str | None, dtype: str, *, bidirectional: bool = False
) -> tuple[Encoder, dict[str, Any]]:
    """Return the encoder of a model folder, or what a run folder plans, and its history.

    Raises:
        ValueError: A base was named for a model, or another attention was asked for than that of
            the model that a plan was made for.
    """
    from ..encoder.encoder import transformer_model
    from ..encoder.history import history_at, history_of
    from ..encoder.loading import load
    from ..encoder.recorded_base import base_source
    from ..encoder.sources import find_architecture
    from ..model.apply import apply
    from ..training.launch import local_device

    errors.quiet_libraries()
    if not (source / PLAN_FILE).is_file():
        if model is not None:
            raise ValueError(f"{source} is a model, which needs no --model; leave it out")
        find_architecture(source)
        encoder = load(source, dtype=dtype, device=local_device(), bidirectional=bidirectional)
        return encoder, history_at(encoder, source)
    if bidirectional:
        raise ValueError(
            f"the plan in {source} was made for a model as it attended then; leave --bidirectional "
            "out, or give a model"
        )
    plan = PruningPlan.load(source)
    name = base_source(model, plan.base.name, source)
    encoder = load(name, dtype=dtype, device=local_device())
    encoder[0].model = apply(transformer_model(encoder), plan)
    return encoder, history_of(plan)


def load_texts(
    encoder: Encoder,
    documents: str | None,
    count: int | None,
    queries: str | None,
    show_progress: bool,
) -> Calibration:
    """Return documents and queries as they are encoded, prompts in front.

    Where queries alone are named, they are all there is: a query encoder needs no documents.

    Raises:
        ValueError: So many documents are asked for, and none are named beside the queries.
    """
    from ..data.calibration import load_calibration
    from ..encoder.encoder import role_prompt

    def prompted(texts: Calibration, role: str) -> list[str]:
        return [role_prompt(encoder, role) + text for text in texts.texts]

    texts, sources = [], []
    if documents is not None or queries is None:
        chosen = load_calibration(documents, limit=count, show_progress=show_progress)
        texts, sources = prompted(chosen, "document"), [chosen.source]
    elif count is not None:
        raise ValueError(
            f"--text-count {count} is of --texts, which is not given; name them, or leave it out"
        )
    if queries is not None:
        asked = load_calibration(queries, limit=None, show_progress=show_progress)
        texts += prompted(asked, "query")
        sources.append(asked.source)
    made: Calibration = replace(load_calibration(texts, limit=None), source=" and ".join(sources))
    return made
