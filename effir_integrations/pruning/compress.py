"""The whole way in one call: load, analyze, drop, reconstruct, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.calibration import Calibration, load_calibration
from ..encoder.encoder import Encoder, transformer_model
from ..encoder.folder import saved_bytes
from ..encoder.loading import load
from ..encoder.sources import find_architecture
from ..encoder.space_record import space_made_of
from ..files import claimed
from ..model.identity import BaseIdentity
from ..model.peft_folder import with_bases
from ..model.plan import ImportanceReport, PruningPlan
from ..progress import is_shown
from .analyze import analyze
from .config import CompressConfig
from .drop import drop
from .export import export, export_from_disk
from .plan import check_targets, find_plan
from .reconstruct import check_plan, reconstruct


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Compressed:
    """What `compress` leaves in memory."""

    encoder: Encoder
    """The pruned model as loaded from its folder."""
    plan: PruningPlan
    """What was removed."""
    report: ImportanceReport | None
    """Importance of the sublayers, where dropping needed it."""

    def __repr__(self) -> str:
        """Return one line, where an encoder's modules and a plan's tensors would fill a screen."""
        return f"Compressed({self.plan!r}, at {transformer_model(self.encoder).name_or_path})"

    def _repr_html_(self) -> str:
        """Return what stays of every layer, and where the model lies, as a notebook shows it."""
        from ..model.tables import plan_html

        place = transformer_model(self.encoder).name_or_path
        return plan_html(self.plan, self.report, f"written to {place}")


def compress(
    model: str | Path,
    out: str | Path,
    config: CompressConfig | None = None,
    *,
    texts: Sequence[str] | None = None,
    force: bool = False,
    show_progress: bool | None = None,
) -> Compressed:
    """Compress a model and write the result as a Sentence Transformers folder.

    Args:
        model: Folder or hub name of a Sentence Transformers or bare Hugging Face model.
        out: Folder to write; must be new or empty unless `force`.
        config: What to remove, or the quality to keep, for which `plan` finds what to remove; with
            nothing named, half of the MLP neurons.
        texts: Calibration texts, instead of those that `config` names.
        force: Replace what is there, at the end and in one step.
        show_progress: Draw bars over long steps;
            None: where someone watches, in a notebook or a terminal.

    Raises:
        ValueError: A setting, the calibration texts or the model's family will not do, `out` holds
            the model or lies in it, or another process writes there; known before the weights are
            loaded.
        FileNotFoundError: The model or the calibration texts are not there.
        FileExistsError: `out` holds something and `force` was not given, or files of others.
        OSError: The disk has no room for the base; known before texts run through it.
        RuntimeError: A stage found its own result wrong; nothing is left behind.
    """
    show_progress = is_shown(show_progress)
    config = config or CompressConfig()
    if not config.drops and config.keep_neurons is None and config.keep_quality is None:
        config = replace(config, keep_neurons=0.5)
    corpus = texts if texts is not None else config.calibration
    if config.keep_quality is not None:
        check_targets(config.plan_config, corpus)
    with claimed(Path(out), force=force, sources=with_bases([model])):
        find_architecture(model)
        calibration = load_calibration(
            corpus,
            limit=config.calibration_texts,
            seed=config.seed,
        )
        encoder = load(model, dtype=config.dtype, from_disk=config.from_disk)
        # no more than the base takes will be written
        with claimed(Path(out), force=force, needed_bytes=saved_bytes(encoder)):
            if config.keep_quality is None:
                plan, report = _plan(encoder, str(model), calibration, config, show_progress)
            else:
                plan, report = _for_quality(encoder, corpus, config, show_progress), None
            if config.from_disk:
                export_from_disk(model, plan, out, force=force, show_progress=show_progress)
                made = load(out, from_disk=True)
            else:
                space = space_made_of(model)
                made = export(encoder, plan, out, space=space, force=force)
    return Compressed(encoder=made, plan=plan, report=report)


def _plan(
    encoder: Encoder,
    name: str,
    calibration: Calibration,
    config: CompressConfig,
    show_progress: bool,
) -> tuple[PruningPlan, ImportanceReport | None]:
    base = BaseIdentity.of(transformer_model(encoder), name)
    _rehearse(base, config)
    plan, report = PruningPlan(base=base), None
    if config.drops:
        if config.drop_config.needs_scores:
            report = analyze(
                encoder, calibration, max_length=config.max_length, show_progress=show_progress
            )
        plan = drop(base, config.drop_config, report)
    if config.keep_neurons is not None:
        plan = reconstruct(
            encoder,
            calibration,
            config.reconstruct_config,
            plan=plan,
            show_progress=show_progress,
        )
    return plan, report


def _for_quality(
    encoder: Encoder,
    corpus: str | Sequence[str] | None,
    config: CompressConfig,
    show_progress: bool,
) -> PruningPlan:
    return find_plan(encoder, config.plan_config, corpus, show_progress=show_progress).plan


def _rehearse(base: BaseIdentity, config: CompressConfig) -> None:
    """Refuse what the base cannot give before any text runs through it.

    Only where all layers are alike: in others, what can go depends on the scores.

    Raises:
        ValueError: As `drop` and `reconstruct`.
    """
    sizes = (base.mlp_widths, base.mlp_parameters, base.attention_parameters)
    if base.dropped_attention or any(len(set(of_layers)) > 1 for of_layers in sizes):
        return
    plan, alike = PruningPlan(base=base), (0.0,) * base.layers
    if config.drops:
        report = ImportanceReport(
            base=base, calibration={}, attention=alike, mlp=alike, block=alike
        )
        plan = drop(base, config.drop_config, report)
    if config.keep_neurons is not None:
        check_plan(plan, config.reconstruct_config)
