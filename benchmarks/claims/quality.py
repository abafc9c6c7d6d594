"""Claims 1 to 3 of the claims: what retrieval loses by depth and width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from effir_integrations.evaluation.intervals import interval

from .checks import Table, coarse_to_fine, data_names, dropping, share, table_of
from .lab import Lab
from .page import Section, markdown
from .plots import lines
from .variants import FULL, Quality, Variant

KINDS = {"mlp": "MLP", "attention": "attention", "block": "block", "last_blocks": "last blocks"}
TUNED = Variant(tuned=True)


def tuned_counts(lab: Lab) -> list[int]:
    """Return a quarter and a half of the layers."""
    return list(dict.fromkeys((lab.part(2), lab.part(4))))


def both(lab: Lab, variants: Sequence[Variant]) -> Table:
    """Measure variants on both data sets."""
    return table_of(lab.quality(variant, data.name) for variant in variants for data in lab.sets)


def quality_table(rows: Table, *, extra: Sequence[tuple[str, list[Quality]]] = ()) -> str:
    """Lay out variants; shares are of the full model, trained or not as the variant is.

    Args:
        rows: Every variant on every data set.
        extra: Further lines: name, and one figure a data set.
    """
    names = data_names(rows)
    columns = ["model", "non-embedding parameters"]
    columns += [title for name in names for title in (f"{name}, nDCG@10", "share")]
    table = [[name, _parameters(line[0]), *_plain(line)] for name, line in extra]
    for variant in dict.fromkeys(variant for variant, _ in rows):
        line = [rows[variant, name] for name in names]
        cells = [variant.title, _parameters(line[0])]
        for row in line:
            full = rows.get((replace(FULL, tuned=variant.tuned), row.data))
            cells += [_figure(row), _share(row, full)]
        table.append(cells)
    return markdown(columns, table)


def _plain(line: Sequence[Quality]) -> list[str]:
    return [cell for row in line for cell in (_figure(row), "")]


def _figure(row: Quality) -> str:
    low, high = interval(lambda mean: mean, row.by_query)
    return f"{row.ndcg:.4f} ({low:.3f} to {high:.3f})"


def _share(row: Quality, full: Quality | None) -> str:
    if full is None or not full.ndcg:
        return "-"
    low, high = (f"{100 * end:.0f}" for end in share(row, full))
    return f"{row.ndcg / full.ndcg:.1%} ({low} to {high})"


def _parameters(row: Quality) -> str:
    return f"{row.parameters:,}"


def _curves(rows: Table, kinds: Sequence[str], tuned: bool, path: Path) -> Path:
    """Draw nDCG@10 against how many were dropped, a line for each kind."""
    panels = {}
    for data in data_names(rows):
        full = rows[replace(FULL, tuned=tuned), data].ndcg
        panels[data] = {
            KINDS[kind]: [(0, full)]
            + [
                (variant.dropped[kind], row.ndcg)
                for (variant, name), row in rows.items()
                if name == data and list(variant.dropped) == [kind]
            ]
            for kind in kinds
        }
    return lines(panels, path, across="number dropped", up="nDCG@10")


def claim_1(lab: Lab, images: Path) -> Section:
    """Drop sublayers, and measure."""
    variants = [FULL]
    for kind in ("attention", "mlp", "block"):
        counts = dict.fromkeys(lab.part(eighths) for eighths in (1, 2, 4, 6))
        variants += [Variant.without(kind, count) for count in counts]
    variants += [Variant(last_blocks=count) for count in tuned_counts(lab)]
    length = lab.options.head_length
    head = [lab.quality(FULL, data.name, length=length) for data in lab.sets]
    rows = both(lab, variants)
    return Section(
        tables=[quality_table(rows, extra=[(f"full, {length} tokens", head)])],
        images=[_curves(rows, list(KINDS), False, images / "claim-1.png")],
        questions=dropping(rows, tuned_counts(lab), tuned=False),
    )


def claim_2(lab: Lab, images: Path) -> Section:
    """Fine-tune what was dropped from, and measure."""
    kinds = ("attention", "mlp", "block")
    variants = [TUNED]
    for kind in kinds:
        variants += [Variant.without(kind, count, tuned=True) for count in tuned_counts(lab)]
    rows = both(lab, variants)
    return Section(
        tables=[quality_table(rows)],
        images=[_curves(rows, kinds, True, images / "claim-2.png")],
        questions=dropping(rows, tuned_counts(lab), tuned=True),
    )


def sizes(lab: Lab) -> list[tuple[Variant, Variant, Variant]]:
    """Return models of equal size: depth alone, with gates, with `reconstruct`; not tuned."""
    made = []
    for dropped, fewer in ((lab.part(4), lab.part(2)), (lab.part(6), lab.part(4))):
        keep = (lab.layers - dropped) / (lab.layers - fewer)
        depth = Variant(mlp=dropped)
        slim, refit = (
            Variant(mlp=fewer, keep=keep, width=width) for width in ("slim", "reconstruct")
        )
        made.append((depth, slim, refit))
    return made


def claim_3(lab: Lab, images: Path) -> Section:
    """Take the same number of parameters by depth, or by depth and width."""
    groups = sizes(lab)
    tuned = [tuple(replace(each, tuned=True) for each in group) for group in groups]
    refitted = Variant(mlp=groups[0][0].mlp, width="reconstruct")
    untuned = [FULL, *groups[0], refitted, *groups[1]]
    rows = both(lab, [*untuned, *(replace(each, tuned=True) for each in untuned)])
    panels = {}
    for data in data_names(rows):
        series = ([TUNED, *chosen] for chosen in zip(*tuned, strict=True))
        names = ("depth alone", "depth and slim", "depth and reconstruct")
        panels[data] = {
            name: [(rows[each, data].parameters / 1e6, rows[each, data].ndcg) for each in line]
            for name, line in zip(names, series, strict=True)
        }
    return Section(
        tables=[quality_table(rows)],
        images=[
            lines(
                panels,
                images / "claim-3.png",
                across="million non-embedding parameters",
                up="nDCG@10, fine-tuned",
            )
        ],
        questions=coarse_to_fine(rows, [(a, b, c) for a, b, c in tuned]),
        notes=["Models of one size have as many MLP neurons; the norms of dropped MLPs differ."],
    )
