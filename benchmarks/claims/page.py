"""The page of one model: a section for each claim, and what all of it was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import Question, overall
from .lab import Lab

PAPER = "https://arxiv.org/abs/2512.20612"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says."""

    title: str
    """Of the section."""
    paper: str
    """Its claim in a sentence, with its own figures."""
    source: str
    """Table or figure."""


CLAIMS = {
    1: Claim(
        title="Dropping attentions, MLPs or blocks, no retraining",
        paper="E5-Mistral can lose 8 of 32 MLPs and keep 57.2 of 59.1 nDCG@10; without 8 "
        "attentions it has 54.3, without 8 blocks 23.8, and it fails without 16 of any of them.",
        source="table 1",
    ),
    2: Claim(
        title="The same after one equal, short fine-tuning",
        paper="fine-tuned after pruning, Mistral-7B has 55.9 without 8 and 55.3 without 16 of 32 "
        "MLPs, against 56.1 with all; without attentions 53.8 and 53.7, without blocks 54.5 and "
        "52.6.",
        source="table 2",
    ),
    3: Claim(
        title="Depth alone against depth and width, at equal parameters",
        paper="dropping 16 MLPs, then slimming the others by 30 % (3.4B parameters) gives 54.3; "
        "dropping 20 MLPs (3.6B) gives 53.7.",
        source="figures 1 and 3, table 3",
    ),
    4: Claim(
        title="Which layers go, and how wide the others stay",
        paper="later layers are dropped first, the retriever's order is that of its base, and "
        "deeper MLPs end up narrower.",
        source="figure 2",
    ),
    5: Claim(
        title="Last-token against mean pooling under lost attention",
        paper="a model that pools the last token suffers more from dropped attentions than one "
        "that pools the mean.",
        source="figures 6 and 7",
    ),
    6: Claim(
        title="Speed against parameters, quantised too",
        paper="without 16 of 32 MLPs queries are encoded 1.64 times and documents 1.55 times as "
        "fast, with 30 % of the width gone as well 1.97 and 1.82 times, without 16 attentions 1.15 "
        "and 1.17 times; NF4 on top costs at most 0.2 points.",
        source="tables 3 and 6",
    ),
    7: Claim(
        title="Isotropy",
        paper="the mean pairwise cosine of 10,000 queries is 0.28 in the full model and 0.34 "
        "without 20 MLPs and 20 % of the width: pruning hardly crowds the vectors.",
        source="appendix A.6",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """What was measured of one claim."""

    tables: Sequence[str]
    """In markdown."""
    images: Sequence[Path]
    """Files that were drawn."""
    questions: Sequence[Question]
    """What the verdict is made of."""
    notes: Sequence[str] = field(default_factory=tuple)
    """How it was measured, and what was left out."""


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table; the first column is text, the others are figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(lab: Lab, sections: Mapping[int, Section | None], out: Path, command: str) -> str:
    """Return the whole page.

    Args:
        lab: Says what was measured with which settings, where and when.
        sections: Of all claims; None where it was not run.
        out: Where the page goes; images are linked from there.
        command: What runs it again.
    """
    parts = [_head(lab, out, command), _summary(sections)]
    for number, claim in CLAIMS.items():
        parts += [f"## {number}. {claim.title}", f"The paper: {claim.paper} ({claim.source})"]
        section = sections.get(number)
        if section is None:
            parts.append("Not run.")
            continue
        parts += section.tables
        for image in section.images:
            what = image.stem.replace("-", " ")
            parts.append(f"![{what}]({image.relative_to(out.parent).as_posix()})")
        parts += section.notes
        parts.append(_verdict(section))
    return "\n\n".join(parts) + "\n"


def _summary(sections: Mapping[int, Section | None]) -> str:
    rows = []
    for number, claim in CLAIMS.items():
        section = sections.get(number)
        found = overall(section.questions) if section else "not run"
        rows.append([f"{number}. {claim.title}", found])
    return markdown(["claim", "holds here"], rows)


def _verdict(section: Section) -> str:
    lines = [f"**Does it hold here? {overall(section.questions).capitalize()}.**"]
    lines += [""] * bool(section.questions)
    for question in section.questions:
        held = sum(check.held for check in question.checks)
        own = "" if question.of_paper else " (our own question, not counted)"
        count = f"{held} of {len(question.checks)} comparisons" if question.checks else "no figures"
        lines.append(f"* {question.text}{own}: **{question.verdict}**, {count}.")
        failed = [check.text for check in question.checks if not check.held]
        lines += [f"  * not so: {text}" for text in failed]
    return "\n".join(lines)


def _head(lab: Lab, out: Path, command: str) -> str:
    options, rows = lab.options, list(lab.rows.used.values())
    dates = sorted({row["date"] for row in rows}) or ["-"]
    machines = sorted({_machine(row["environment"]) for row in rows})
    threads = " or ".join(sorted({str(row["threads"]) for row in rows}))
    model = lab.base
    sets = "; ".join(
        f"{each.name}: {len(each.documents):,} documents, {len(each.queries):,} test queries"
        for each in lab.sets
    )
    if options.queries or options.others is not None:
        sets += " (a part of each, which is easier to search than the whole)"
    widths = sorted(set(model.mlp_widths))
    lines = [
        f"* Model: {lab.name}, {model.layers} layers, hidden size {model.hidden_size}, "
        f"{' or '.join(map(str, widths))} MLP neurons a layer, {model.parameters:,} parameters; "
        f"{lab.identity[:19]}",
        f"* Data: {sets}. Exact search, texts cut at {options.max_length} tokens unless said "
        f"otherwise, {lab.dtype}. Intervals hold 95 % of 2,000 draws of queries with replacement; "
        "a comparison of nDCG@10 holds where its interval leaves out that there is no effect.",
        f"* Importance and `reconstruct` read the {len(lab.calibration)} texts that come with the "
        "package, and no text of the two data sets.",
        f"* Fine-tuning, the same for every model: {options.steps} steps of {options.batch} pairs, "
        f"learning rate {options.rate:g}, {_trains(options.trains)}, InfoNCE over the batch at "
        f"temperature {lab.finetune_config.temperature:g}, seed {lab.finetune_config.seed}. Pairs: "
        f"train queries of {lab.scifact.name} with their documents, and titles with texts of both "
        "corpora. No test query or judgement is read by anything but the evaluation.",
        f"* Gates (`slim`): {options.slim_steps} steps on the same pairs, weights frozen.",
        f"* Measured {dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'}, {threads} "
        f"thread{'s' * (threads != '1')}, {_minutes(rows)} minutes in all. "
        f"{' / '.join(machines)}.",
    ]
    return "\n\n".join(
        [
            f"# The paper's claims on {lab.name}",
            f"What [EffiR]({PAPER}) says of models of 7B parameters, measured on {lab.name}. "
            "Verdicts follow from the figures by fixed rules. "
            f"[All models](../{out.parent.name}.md)",
            "\n".join(lines),
            f"Run it again; what is measured already is found in the folder of `--work`, and "
            f"`--render-only` only writes this page:\n\n```sh\n{command}\n```",
        ]
    )


def _machine(environment: Mapping[str, str]) -> str:
    names = ("python", "torch", "transformers", "sentence-transformers")
    versions = (f"{name} {environment[name]}" for name in names)
    return ", ".join([environment["processor"], *versions])


def _trains(trains: str) -> str:
    return "all weights" if trains == "all" else "LoRA of rank 32"


def _minutes(rows: Sequence[Mapping[str, Any]]) -> int:
    return round(sum(row["seconds"] for row in rows) / 60)
