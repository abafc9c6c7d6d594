"""Whether a claim holds: comparisons of figures, and yes, partly or no for all of them together.

A comparison of nDCG@10 holds where the 95 % interval over queries leaves out that there is no
effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import spearmanr

from effir_integrations.evaluation.intervals import interval

from .variants import FULL, Quality, Variant

KEEPS = 0.95
"""Share of the full model's nDCG@10 that counts as kept."""
ISOTROPY_RISE = 0.10
"""Rise of the mean cosine that counts as none; the paper's is 0.06."""
SAME_ORDER = 0.7
"""Rank correlation from which two orders count as one."""
QUANTISED_KEEPS = 0.99
"""Share of nDCG@10 that quantisation may leave; the paper's is above 0.99."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison."""

    text: str
    """With the figures."""
    held: bool
    """Whether it came out as the claim says."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Comparisons that belong together."""

    text: str
    """What is asked, as a statement."""
    checks: Sequence[Check]
    """None where it could not be measured."""
    of_paper: bool = True
    """Whether it counts for the claim's verdict; else it is a question of our own."""

    @property
    def verdict(self) -> str:
        """Return yes, partly or no."""
        return verdict(self.checks)


def verdict(checks: Iterable[Check]) -> str:
    """Return `yes` if all held, `no` if none, `partly` in between, `not measured` for nothing."""
    held = [check.held for check in checks]
    if not held:
        return "not measured"
    return "yes" if all(held) else "partly" if any(held) else "no"


def overall(questions: Iterable[Question]) -> str:
    """Return the verdict over all comparisons of the paper's questions."""
    questions = list(questions)
    if not questions:
        return "not asked"
    return verdict(
        check for question in questions if question.of_paper for check in question.checks
    )


Table = Mapping[tuple[Variant, str], Quality]


def table_of(rows: Iterable[Quality]) -> Table:
    """Index rows by variant and data set."""
    return {(row.variant, row.data): row for row in rows}


def data_names(rows: Table) -> list[str]:
    """Return the data sets in their order."""
    return list(dict.fromkeys(data for _, data in rows))


def beats(rows: Table, better: Variant, worse: Variant) -> list[Check]:
    """Compare two variants on every data set; it holds where chance would not do it."""
    checks = []
    for data in data_names(rows):
        first, second = rows[better, data], rows[worse, data]
        low, high = interval(np.subtract, first.by_query, second.by_query)
        text = (
            f"{data}: {better.name} {first.ndcg:.4f} > {worse.name} {second.ndcg:.4f} "
            f"(difference {low:+.4f} to {high:+.4f})"
        )
        checks.append(Check(text=text, held=low > 0))
    return checks


def keeps(rows: Table, variant: Variant, least: float = KEEPS) -> list[Check]:
    """Compare a variant with the full model, trained or not as it is itself."""
    checks = []
    full = replace(FULL, tuned=variant.tuned)
    for data in data_names(rows):
        ours, whole = rows[variant, data], rows[full, data]
        low, high = share(ours, whole)
        text = (
            f"{data}: {variant.name} keeps {ours.ndcg / (whole.ndcg or 1):.1%} "
            f"({low:.1%} to {high:.1%}), at least {least:.0%}"
        )
        checks.append(Check(text=text, held=low >= least))
    return checks


def share(ours: Quality, whole: Quality) -> tuple[float, float]:
    """Return the interval of the share of the full model's nDCG@10."""
    return interval(lambda a, b: a / np.maximum(b, 1e-12), ours.by_query, whole.by_query)


def dropping(rows: Table, counts: Sequence[int], tuned: bool) -> list[Question]:
    """Ask which sublayers a model can do without (tables 1, 2)."""
    compared, kept = [], []
    for count in counts:
        mlp = Variant(mlp=count, tuned=tuned)
        for other in (Variant(attention=count, tuned=tuned), Variant(block=count, tuned=tuned)):
            compared += beats(rows, mlp, other)
        if count == counts[0] or tuned:
            kept += keeps(rows, mlp)
    return [
        Question(text="MLPs go at less cost than as many attentions or blocks", checks=compared),
        Question(text=f"MLPs go and {KEEPS:.0%} of nDCG@10 stays", checks=kept),
    ]


def coarse_to_fine(
    rows: Table, pairs: Sequence[tuple[Variant, Variant, Variant]]
) -> list[Question]:
    """Ask whether depth and width together beat depth alone at equal size (figures 1, 3).

    Args:
        rows: All of them fine-tuned.
        pairs: Depth alone, with gates, with `reconstruct`.
    """
    gates = [check for depth, slim, _ in pairs for check in beats(rows, slim, depth)]
    refit = [check for depth, _, made in pairs for check in beats(rows, made, depth)]
    return [
        Question(text="with trained gates, depth and width beat depth alone", checks=gates),
        Question(
            text="with `reconstruct`, depth and width beat depth alone",
            checks=refit,
            of_paper=False,
        ),
    ]


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 where one of them does not vary."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return float(spearmanr(first, second).statistic)


def drop_order(
    scores: Mapping[str, Mapping[str, Sequence[float]]], widths: Mapping[str, Sequence[int]]
) -> list[Question]:
    """Ask where models can be cut (figure 2).

    Args:
        scores: Model, `retriever` and perhaps `base` -> kind of sublayer -> importance by layer.
        widths: `slim`, `reconstruct` -> MLP neurons by layer, 0 where the MLP was dropped.
    """
    later, shared, narrower = [], [], []
    for kind, values in scores["retriever"].items():
        found = correlation(range(len(values)), values)
        text = f"{kind}: importance falls with depth, rank correlation {found:.2f}"
        later.append(Check(text=text, held=found < 0))
        if "base" in scores:
            found = correlation(values, scores["base"][kind])
            text = f"{kind}: rank correlation {found:.2f}, at least {SAME_ORDER}"
            shared.append(Check(text=text, held=found >= SAME_ORDER))
    for method, values in widths.items():
        left = [(layer, width) for layer, width in enumerate(values) if width]
        found = correlation(*zip(*left, strict=True))
        text = f"{method}: width falls with depth, rank correlation {found:.2f}"
        narrower.append((method, Check(text=text, held=found < 0)))
    return [
        Question(text="later layers are dropped first", checks=later),
        Question(text="base and retriever share the order", checks=shared),
        Question(
            text="with trained gates, deeper MLPs end up narrower",
            checks=[check for method, check in narrower if method == "slim"],
        ),
        Question(
            text="with `reconstruct`, deeper MLPs end up narrower",
            checks=[check for method, check in narrower if method != "slim"],
            of_paper=False,
        ),
    ]


def pooling(
    losses: Mapping[tuple[str, int, str], float], gaps: Mapping[str, float]
) -> list[Question]:
    """Ask what lost attention does to the pooled token (figures 6, 7).

    Args:
        losses: Data set, attentions dropped, `lasttoken` or `mean` -> share of nDCG@10 lost.
        gaps: `full`, `K attentions`, `K MLPs` -> cosine to the positive less that to the negative,
            behind the last layer.
    """
    more = []
    for (data, count, kind), last in losses.items():
        if kind == "lasttoken":
            mean = losses[data, count, "mean"]
            text = f"{data}, {count} attentions: last token loses {last:.1%}, mean {mean:.1%}"
            more.append(Check(text=text, held=last > mean))
    nearer = []
    for name, gap in gaps.items():
        if name.endswith(" MLPs"):
            other, full = gaps[name.replace("MLPs", "attentions")], gaps["full"]
            text = f"{name}: gap {gap:.3f}, as many attentions {other:.3f}, full {full:.3f}"
            nearer.append(Check(text=text, held=abs(gap - full) < abs(other - full)))
    return [
        Question(text="the last token loses more with attention than the mean does", checks=more),
        Question(
            text="without MLPs, positives stay as far from negatives as in the full model, more "
            "than without as many attentions",
            checks=nearer,
            of_paper=False,
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How many times as fast as the full model a variant is, in the lowest round and the median."""

    lowest: float
    """Of all rounds."""
    median: float
    """Ratio of median times."""


def speed(
    gains: Mapping[tuple[Variant, str], Gain],
    counts: Sequence[int],
    finest: tuple[Variant, Variant],
    quantised: Mapping[str, tuple[float, float]],
) -> list[Question]:
    """Ask what goes faster by it, and whether quantisation adds up (tables 3, 6).

    Args:
        gains: Variant, `documents` or `queries` -> gain over the full model.
        counts: Numbers of sublayers dropped, of MLPs and of attentions.
        finest: Depth with width, and the same depth alone.
        quantised: Model -> nDCG@10 before and after.
    """
    checks = []
    for count in counts:
        mlp, attention = Variant(mlp=count, tuned=True), Variant(attention=count, tuned=True)
        for kind in ("documents", "queries"):
            ours, other = gains[mlp, kind], gains[attention, kind]
            text = f"{kind}: {mlp.name}, lowest gain of a round {ours.lowest:.2f} > 1"
            checks.append(Check(text=text, held=ours.lowest > 1))
            text = f"{kind}: {mlp.name} {ours.median:.2f} > {attention.name} {other.median:.2f}"
            checks.append(Check(text=text, held=ours.median > other.median))
    for kind in ("documents", "queries"):
        fine, depth = (gains[variant, kind].median for variant in finest)
        text = f"{kind}: {finest[0].name} {fine:.2f} > {finest[1].name} {depth:.2f}"
        checks.append(Check(text=text, held=fine > depth))
    kept = [
        Check(
            text=f"{name}: {after / (before or 1):.1%} of nDCG@10 after int8",
            held=after >= QUANTISED_KEEPS * before,
        )
        for name, (before, after) in quantised.items()
    ]
    return [
        Question(text="fewer parameters are faster, MLPs more so than attentions", checks=checks),
        Question(
            text=f"quantisation keeps {QUANTISED_KEEPS:.0%} of nDCG@10, pruned or not", checks=kept
        ),
    ]


def isotropy(
    cosines: Mapping[Variant, float], full: Variant, pruned: Sequence[Variant]
) -> list[Question]:
    """Ask whether pruned and trained models crowd their vectors (A.6)."""
    checks = [
        Check(
            text=f"{variant.name}: mean cosine {cosines[variant]:.3f} against {cosines[full]:.3f}",
            held=cosines[variant] - cosines[full] <= ISOTROPY_RISE,
        )
        for variant in pruned
    ]
    return [
        Question(
            text=f"the mean cosine of queries rises by at most {ISOTROPY_RISE:.2f}", checks=checks
        )
    ]
