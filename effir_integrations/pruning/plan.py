"""A target in, a plan out: how far a model can be cut for what it has to keep or may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..encoder.encoder import transformer_model
from ..encoder.loading import load
from ..encoder.sources import find_architecture
from ..fields import blamed_on, check_fields, from_mapping
from ..files import read_json, write_json
from ..files.locks import locked
from ..model.apply import check_code
from ..model.identity import BaseIdentity
from ..model.plan import PLAN_FILE, PruningPlan
from ..progress import is_shown
from .analyze import analyze
from .candidates import Candidate, Chooser
from .costs import COSTS_FILE, Costs, measure_costs, setting_of
from .search_plans import Planned, Point, check_size, estimated, search_plans
from .trial import Trial, read_material

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .plan_config import PlanConfig

POINTS_FILE = "points.json"
_FORMAT = "effir-points-1"


def plan(
    model: str | Path,
    out: str | Path,
    config: PlanConfig,
    *,
    texts: str | Path | Sequence[str] | None = None,
    force: bool = False,
    show_progress: bool | None = None,
) -> Planned:
    """Find the sublayers and neurons to remove for a share of quality, time, parameters or memory.

    Parts of the model are timed on this machine, at several widths. What a neuron costs is measured
    by backward elimination, what a sublayer does by its importance (equation 3); by both, MLPs are
    narrowed step by step for every number of attentions and of blocks that go. Those that meet the
    targets at the least error are made, timed beside the full model, and judged by known items of
    the texts: titles, or first sentences, and what stood under them. The best is chosen.

    Args:
        model: Folder or hub name.
        out: Run folder for `plan.json`, which `export` reads, `costs.json` and `points.json`.
        config: The targets.
        texts: Corpus, as `check` takes it; `keep_quality` needs one. Without, the texts that are
            shipped are calibrated on, and quality is estimated, not measured.
        force: Replace a plan and costs that are there.
        show_progress: Draw progress bars;
            None: where someone watches, in a notebook or a terminal.

    Raises:
        FileNotFoundError: The model or the corpus is not there.
        ValueError: A target cannot be met (the nearest plan is named), there are too few texts, the
            family is not supported, `out` holds a plan, or costs of another machine.
    """
    show_progress = is_shown(show_progress)
    out = Path(out)
    check_targets(config, texts)
    find_architecture(model)
    with locked(out):
        if (out / PLAN_FILE).is_file() and not force:
            raise ValueError(
                f"{out} holds a plan already; choose another --out, replace it (--force), or take "
                "another of its points (--point)"
            )
        found = find_plan(
            load(str(model)),
            config,
            texts,
            costs=out / COSTS_FILE,
            force=force,
            show_progress=show_progress,
        )
        _save(found, config, texts, out)
    return found


def check_targets(config: PlanConfig, texts: str | Path | Sequence[str] | None) -> None:
    """Refuse a plan without a target, or one that could not be judged.

    Raises:
        ValueError: It is such a one.
    """
    if not config.targets:
        raise ValueError(
            "nothing to plan for: give a share of quality (keep_quality), of time (latency) or of "
            "parameters (keep_parameters), or megabytes (memory)"
        )
    if config.keep_quality is not None and texts is None:
        raise ValueError(
            f"keep_quality={config.keep_quality} is measured on a corpus of yours; give one "
            "(--texts, of compress --calibration: a BEIR folder, a .jsonl or a .txt file)"
        )


def find_plan(
    encoder: SentenceTransformer,
    config: PlanConfig,
    texts: str | Path | Sequence[str] | None,
    *,
    costs: Path | None = None,
    force: bool = False,
    show_progress: bool = False,
) -> Planned:
    """Do what `plan` does, without a run folder.

    Args:
        encoder: The full model, which is run and stays as it is.
        config: As of `plan`.
        texts: As of `plan`.
        costs: File of costs, read where it is there, and written.
        force: Measure costs again.
        show_progress: Draw progress bars.

    Raises:
        ValueError: As `plan`.
    """
    check_size(transformer_model(encoder), config)
    trial, chooser = prepare(
        encoder, config, texts, costs=costs, force=force, show_progress=show_progress
    )
    best, points, made = search_plans(trial, chooser, config)
    rest = estimated(trial, chooser, points)
    ordered = tuple(sorted((*points, *rest), key=lambda x: (-x.latency, -x.parameters)))
    return Planned(
        plan=replace(made, made_by=(_record(config, trial, best),)),
        points=ordered,
        chosen=ordered.index(best),
        costs=chooser.costs,
    )


def prepare(
    encoder: SentenceTransformer,
    config: PlanConfig,
    texts: str | Path | Sequence[str] | None,
    *,
    costs: Path | None = None,
    force: bool = False,
    show_progress: bool = False,
) -> tuple[Trial, Chooser]:
    """Measure all that a search for plans needs: times, importance, and what neurons cost.

    Args: as of `find_plan`.

    Raises:
        ValueError: As `plan`, but for its targets.
    """
    material = read_material(texts, config)
    check_code(transformer_model(encoder))
    measured = None
    if costs is not None and costs.is_file() and not force:
        measured = Costs.load(costs)
        measured.check_setting(setting_of(encoder, material.work), costs)
    if measured is None:
        measured = measure_costs(
            encoder, material.work, multiple_of=config.multiple_of, show_progress=show_progress
        )
        if costs is not None:
            measured.save(costs.parent)
    report = analyze(
        encoder,
        material.calibration,
        max_length=config.max_length,
        show_progress=show_progress,
    )
    trial = Trial(encoder, material, config, show_progress)
    chooser = Chooser(
        trial.base,
        report,
        trial.removals,
        measured,
        texts=trial.texts,
        multiple_of=config.multiple_of,
        uniform=config.uniform,
    )
    return trial, chooser


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What `points.json` holds beside its format."""

    base: BaseIdentity
    config: Mapping[str, Any]
    texts: str | None
    chosen: int
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        check_fields(self)


def _save(
    found: Planned, config: PlanConfig, texts: str | Path | Sequence[str] | None, out: Path
) -> None:
    kept = {
        "base": asdict(found.plan.base),
        "config": asdict(config),
        "texts": str(texts) if isinstance(texts, str | Path) else None,
        "chosen": found.chosen,
        "points": [asdict(point) for point in found.points],
    }
    found.plan.save(out)
    write_json(out / POINTS_FILE, {"format": _FORMAT, **kept})


def take_point(
    model: str | Path, out: str | Path, place: int, *, show_progress: bool = False
) -> PruningPlan:
    """Make another point of a run folder its plan.

    Args:
        model: The model that was planned for.
        out: Run folder of `plan`.
        place: Of the point, as the table numbers it, from 0.
        show_progress: Draw progress bars.

    Raises:
        FileNotFoundError: The folder holds no points, or the corpus is gone.
        ValueError: There is no such point.
    """
    from .plan_config import PlanConfig

    path = Path(out) / POINTS_FILE
    with locked(Path(out)):
        content = read_json(path, "the points that `effir plan` writes")
        if content.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} holds no points of `effir plan`; plan again")
        with blamed_on(path):
            kept = from_mapping(_Kept, content)
            config = from_mapping(PlanConfig, kept.config)
        if not 0 <= place < len(kept.points):
            raise ValueError(f"{path} has no point {place}; choose 0 to {len(kept.points) - 1}")
        point = kept.points[place]
        encoder = load(str(model))
        kept.base.check_same(BaseIdentity.of(transformer_model(encoder)))
        trial = Trial(encoder, read_material(kept.texts, config), config, show_progress)
        made = trial.make(
            Candidate(
                drop_attention=point.drop_attention,
                widths=point.mlp_widths,
                milliseconds=0.0,
                parameters=point.parameters,
                error=point.error,
            )
        )
        made = replace(made, made_by=(_record(config, trial, point),))
        made.save(Path(out))
        write_json(path, {"format": _FORMAT, **asdict(replace(kept, chosen=place))})
    return made


def _record(config: PlanConfig, trial: Trial, point: Point) -> dict[str, Any]:
    return {
        "stage": "plan",
        "config": asdict(config),
        "calibration": trial.material.calibration.record,
        "found": asdict(point),
    }
