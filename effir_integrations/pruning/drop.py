"""Choose whole sublayers to drop, by importance or by name (equations 4 and 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..encoder.encoder import transformer_model
from ..encoder.folder import identify
from ..model.identity import BaseIdentity
from ..model.plan import ImportanceReport, PruningPlan
from ..model.surgery import check_layers, check_some_attention_left
from .config import DropConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def drop(
    base: BaseIdentity | SentenceTransformer | str | Path,
    config: DropConfig,
    report: ImportanceReport | None = None,
) -> PruningPlan:
    """Plan which MLP and attention sublayers go (eq. 4, 5); no weight is touched.

    Named layers and last blocks go first, then blocks, then MLPs and attentions by importance among
    those that are left, then more MLPs until a parameter target is met. Ties go by layer.

    Args:
        base: The model to prune: what identifies it, as `report.base`, or the model itself, or the
            folder or name to load it from.
        config: What to drop.
        report: Importance of the same base; not needed for layers by name or last blocks.

    Raises:
        ValueError: The report is of another base or missing, there are not that many sublayers, the
            target cannot be met, or no attention would be left.
    """
    if not isinstance(base, BaseIdentity):
        base = (
            identify(base)
            if isinstance(base, str | Path)
            else BaseIdentity.of(transformer_model(base))
        )
    if report is not None:
        report.base.check_same(base)
    elif config.needs_scores:
        raise ValueError("dropping by importance needs a report; run `effir analyze` first")
    mlps = {layer for layer, width in enumerate(base.mlp_widths) if width}
    attentions = set(range(base.layers)) - set(base.dropped_attention)
    gone_mlp = set(check_layers(config.mlp_layers, sorted(mlps), base.layers, "MLP"))
    gone_attention = set(
        check_layers(config.attention_layers, sorted(attentions), base.layers, "attention")
    )
    for layer in _blocks(base, config, report, gone_mlp & gone_attention):
        gone_mlp |= {layer} & mlps
        gone_attention |= {layer} & attentions
    gone_mlp |= set(_lowest(report, "mlp", config.mlp, gone_mlp))
    gone_attention |= set(_lowest(report, "attention", config.attention, gone_attention))
    gone_mlp |= set(_mlps_for_target(base, config, report, gone_mlp, gone_attention))
    check_some_attention_left(sorted(attentions), gone_attention)
    if not gone_mlp and not gone_attention:
        raise ValueError(
            "nothing to drop: give a number of sublayers (mlp, attention, block, last_blocks), "
            "layers by name, or a parameter target below the model's "
            f"{base.parameters:,}"
        )
    return PruningPlan(
        base=base,
        drop_mlp=tuple(sorted(gone_mlp)),
        drop_attention=tuple(sorted(gone_attention)),
        made_by=({"stage": "drop", "config": asdict(config), "calibration": _source(report)},),
    )


def _source(report: ImportanceReport | None) -> dict[str, object] | None:
    return None if report is None else dict(report.calibration)


def _blocks(
    base: BaseIdentity, config: DropConfig, report: ImportanceReport | None, gone: set[int]
) -> Iterator[int]:
    if config.last_blocks + config.block >= base.layers:
        raise ValueError(
            f"dropping {config.last_blocks + config.block} of {base.layers} blocks would leave "
            "none; choose fewer"
        )
    last = set(range(base.layers - config.last_blocks, base.layers))
    yield from sorted(last)
    yield from _lowest(report, "block", config.block, gone | last)


def _lowest(report: ImportanceReport | None, kind: str, count: int, gone: set[int]) -> list[int]:
    if count == 0 or report is None:
        return []
    order = [layer for layer in report.order(kind) if layer not in gone]
    if count > len(order):
        raise ValueError(
            f"cannot drop {count} {kind} sublayers: only {len(order)} are left; choose at most that"
        )
    return order[:count]


def _mlps_for_target(
    base: BaseIdentity,
    config: DropConfig,
    report: ImportanceReport | None,
    gone_mlp: set[int],
    gone_attention: set[int],
) -> list[int]:
    target = config.parameters
    if config.keep_parameters is not None:
        target = int(config.keep_parameters * base.parameters)
    if target is None or report is None:
        return []
    left = base.parameters - sum(base.mlp_parameters[layer] for layer in gone_mlp)
    left -= sum(base.attention_parameters[layer] for layer in gone_attention)
    chosen = []
    for layer in report.order("mlp"):
        if left <= target:
            break
        if layer not in gone_mlp:
            chosen.append(layer)
            left -= base.mlp_parameters[layer]
    if left > target:
        raise ValueError(
            f"{target:,} parameters cannot be reached: {left:,} stay with every MLP dropped; raise "
            "the target, or drop attention or blocks as well"
        )
    return chosen
