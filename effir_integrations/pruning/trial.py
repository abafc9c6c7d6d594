"""Make plans of candidates, and measure what they keep and how long they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.calibration import Calibration, load_calibration
from ..data.sentences import sentences
from ..encoder.encoder import transformer_model
from ..evaluation.agreement import TOP, reciprocal_ranks
from ..evaluation.check import Answers, answer
from ..evaluation.intervals import interval
from ..evaluation.known_items import Questions, asked_of, read_records
from ..evaluation.retrieval import search
from ..model.hooks import evaluation_mode
from ..model.identity import BaseIdentity
from ..model.plan import PruningPlan
from .candidates import Candidate
from .config import ReconstructConfig
from .costs import Workload, dropped_mlps, running, shape_plan, thinned, time_models
from .measuring import measuring
from .refit import Calibrator

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .plan_config import PlanConfig
    from .ranking import Removal

_TIMED = {"document": 32, "query": 32}
"""Texts of a role that are timed."""
_BATCH = {"document": 32, "query": 1}


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """The texts of a plan: to rank and refit on, to ask for, and to time."""

    calibration: Calibration
    questions: Questions | None
    """None where no corpus was given; then quality is not measured."""
    work: Workload


def read_material(texts: str | Path | Sequence[str] | None, config: PlanConfig) -> Material:
    """Draw texts for all that a plan measures; known items and calibration texts have none common.

    Args:
        texts: Corpus, as `check` takes it; None takes the texts that are shipped, which are too few
            to ask for.
        config: How many of each.

    Raises:
        FileNotFoundError: The corpus is not there.
        ValueError: It has too few texts.
    """
    if texts is None:
        calibration = load_calibration(limit=config.calibration_texts, seed=config.seed)
        asked, timed = None, list(calibration.texts)
        queries = [first for text in timed for first in sentences(text)[:1]]
    else:
        wanted = config.calibration_texts + config.documents
        records = read_records(texts, wanted, config.seed)
        generator = np.random.default_rng(config.seed)
        count = min(config.calibration_texts, len(records) // 2)
        fitted = set(generator.choice(len(records), count, replace=False).tolist())
        calibration = replace(
            load_calibration([records[x].whole for x in sorted(fitted)], limit=None),
            source=str(texts) if isinstance(texts, str | Path) else "texts",
        )
        rest = [record for place, record in enumerate(records) if place not in fitted]
        asked = asked_of(rest, None, config.queries, config.seed)
        timed, queries = [record.whole for record in rest], asked.queries
    return Material(
        calibration=calibration,
        questions=asked,
        work=_workload(queries if config.role == "query" else timed, config),
    )


def _workload(texts: Sequence[str], config: PlanConfig) -> Workload:
    places = np.linspace(0, len(texts) - 1, min(_TIMED[config.role], len(texts)))
    chosen = [texts[round(x)] for x in places]
    if config.length is not None:
        # a word is a token at least
        chosen = [
            " ".join([text] * (1 + config.length // max(1, len(text.split())))) for text in chosen
        ]
    return Workload(
        role=config.role,
        texts=tuple(chosen),
        batch=config.batch or _BATCH[config.role],
        max_length=config.length or config.max_length,
    )


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Mean reciprocal rank of known items, as a share of the full model's."""

    share: float
    interval: tuple[float, float]
    """95 %, by drawing queries with replacement."""


class Trial:
    """Ranks the neurons of a model once, and makes and measures plans of it."""

    def __init__(
        self,
        encoder: SentenceTransformer,
        material: Material,
        config: PlanConfig,
        show_progress: bool,
    ) -> None:
        """Rank the neurons."""
        self.encoder, self.material, self.config = encoder, material, config
        self.model = transformer_model(encoder)
        self.base = BaseIdentity.of(self.model)
        self.show_progress = show_progress
        # what neurons cost is set against what sublayers do, which is told by the stream
        settings = ReconstructConfig(
            keep_neurons=0.5,
            multiple_of=config.multiple_of,
            max_length=config.max_length,
            count_by="stream",
        )
        with measuring(encoder), evaluation_mode(self.model):
            self._calibrator = Calibrator(encoder, material.calibration, settings, show_progress)
            widths = {x: width for x, width in enumerate(self.base.mlp_widths) if width}
            self.removals: Mapping[int, Removal]
            self.removals, self._means = self._calibrator.rank(PruningPlan(base=self.base), widths)
        self._full: tuple[Answers, dict[str, float]] | None = None

    @property
    def texts(self) -> int:
        """How many texts neurons were ranked on."""
        return len(self.material.calibration.texts)

    def make(self, candidate: Candidate) -> PruningPlan:
        """Return the candidate's plan, its projections refitted."""
        base = self.base
        neurons = {
            x: self.removals[x].kept(width)
            for x, width in enumerate(candidate.widths)
            if 0 < width < base.mlp_widths[x]
        }
        bare = PruningPlan(
            base=base,
            drop_mlp=dropped_mlps(base, candidate.widths),
            drop_attention=candidate.drop_attention,
        )
        with measuring(self.encoder), evaluation_mode(self.model):
            calibrator = self._calibrator
            outputs, _ = calibrator.method.repair(calibrator, bare, neurons, self._means)
        return replace(bare, neurons=neurons, outputs=outputs)

    def latency(self, candidate: Candidate, rounds: int = 5) -> float:
        """Return how long a text takes, as a share of the full model's time, timed in turns."""
        shape = shape_plan(self.base, candidate.widths, candidate.drop_attention)
        models = [self.model, thinned(self.model, shape)]
        full, pruned = time_models(self.encoder, models, self.material.work, rounds=rounds)
        return pruned / full

    def quality(self, plan: PruningPlan) -> Quality | None:
        """Return how well known items are found, or None where there is no corpus to ask for."""
        asked = self.material.questions
        if asked is None:
            return None
        if self._full is None:
            theirs = self._answers(asked)
            self._full = theirs, _ranks(theirs.queries, theirs.documents, asked)
        full, before = self._full
        with running(self.encoder, thinned(self.model, plan)):
            ours = self._answers(asked)
        documents = full.documents if self.config.role == "query" else ours.documents
        after = _ranks(ours.queries, documents, asked)
        # a draw of queries of which the full model answers none has no share
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = interval(np.divide, after, before)
        if not np.isfinite(ends).all():
            found = sum(rank > 0 for rank in before.values())
            raise ValueError(
                f"{self.base.name} finds {found} of {len(asked.queries)} known items among "
                f"{len(asked.documents)} documents, too few to tell what quality is kept; give the "
                "corpus that it is meant for (--texts), or the right model"
            )
        share = float(np.mean(list(after.values())) / np.mean(list(before.values())))
        return Quality(share=share, interval=ends)

    def _answers(self, asked: Questions) -> Answers:
        return answer(
            self.encoder,
            asked,
            max_length=self.config.max_length,
            show_progress=self.show_progress,
        )


def _ranks(queries: Any, documents: Any, asked: Questions) -> dict[str, float]:
    found = search(documents, queries, min(TOP, len(documents)))[1]
    ranks = reciprocal_ranks(found, asked.answers or [])
    return {str(place): float(x) for place, x in enumerate(ranks)}
