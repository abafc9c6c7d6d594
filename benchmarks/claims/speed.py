"""Claim 6 of the claims: what fewer parameters and 8 bits gain in time, and cost in quality."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from encode import ratio, three
from encode_parts import Run, take_turns

from effir_integrations.encoder.search_vectors import Role, search_vectors

from .checks import Gain, speed
from .lab import Lab
from .page import Section, markdown
from .plots import scatter
from .quality import TUNED, sizes, tuned_counts
from .texts import content_hash, processor
from .variants import Quality, Variant

Contender = tuple[Variant, str]
"""A variant and the precision it runs at."""
KINDS: tuple[Role, ...] = ("document", "query")
PLURALS = {"document": "documents", "query": "queries"}
Times = dict[Contender, dict[Role, list[float]]]
"""Seconds of every contender in every round, for documents and for queries."""


def claim_6(lab: Lab, images: Path) -> Section:
    """Time models in turns, and measure what each of them finds."""
    counts = tuned_counts(lab)
    fine = replace(sizes(lab)[0][2], tuned=True)
    variants = [TUNED]
    for kind in ("mlp", "attention"):
        variants += [Variant.without(kind, count, tuned=True) for count in counts]
    variants.append(fine)
    precisions, notes = _precisions(lab)
    quantised = [(each, name) for name in precisions for each in (TUNED, fine)]
    contenders: list[Contender] = [*((each, lab.dtype) for each in variants), *quantised]
    seconds = timings(lab, contenders)
    name = lab.scifact.name
    quality = {each: lab.quality(each[0], name, precision=each[1]) for each in contenders}
    gains = {
        (variant, PLURALS[kind]): _gain(
            seconds[TUNED, lab.dtype][kind], seconds[variant, lab.dtype][kind]
        )
        for variant in variants
        for kind in KINDS
    }
    before_after = {
        label((each, name)): (quality[each, lab.dtype].ndcg, quality[each, name].ndcg)
        for each, name in quantised
    }
    depth = Variant(mlp=counts[0], tuned=True)
    return Section(
        tables=[_table(lab, quality, seconds)],
        images=[_plot(quality, seconds, images / "claim-6.png")],
        questions=speed(gains, counts, (fine, depth), before_after),
        notes=[
            f"Models took turns over the same {len(_texts(lab, 'document'))} documents and "
            f"{len(_texts(lab, 'query'))} queries of {name}, {lab.options.rounds} rounds, "
            f"threads: {lab.options.threads}; medians, and in brackets the lowest and highest of "
            f"a round. All are fine-tuned; nDCG@10 is on {name}.",
            *notes,
        ],
    )


def _table(lab: Lab, quality: dict[Contender, Quality], seconds: Times) -> str:
    rows = []
    first = next(iter(quality))
    for each, found in quality.items():
        share = found.parameters / quality[first].parameters
        rows.append(
            [
                label(each),
                f"{found.parameters:,} ({share:.0%})",
                f"{found.megabytes:.1f}",
                f"{found.ndcg:.4f}",
                *(_rate(lab, kind, seconds[each][kind]) for kind in KINDS),
                *(ratio(seconds[first][kind], seconds[each][kind]) for kind in KINDS),
            ]
        )
    columns = ["model", "non-embedding parameters", "MB of weights", "nDCG@10", "documents/s"]
    columns += ["queries/s", "documents: times full", "queries: times full"]
    return markdown(columns, rows)


def _plot(quality: dict[Contender, Quality], seconds: Times, path: Path) -> Path:
    first = next(iter(quality))
    points = {
        label(each): (
            found.parameters / quality[first].parameters,
            _gain(seconds[first]["document"], seconds[each]["document"]).median,
        )
        for each, found in quality.items()
    }
    across, up = "share of the non-embedding parameters", "documents/s, times full"
    return scatter(points, path, across=across, up=up)


def label(contender: Contender) -> str:
    """Return what tables call a variant at a precision."""
    return f"{contender[0].name}, {contender[1]}"


def _precisions(lab: Lab) -> tuple[list[str], list[str]]:
    """Return which quantisations this machine has, and what to say of the others."""
    if lab.options.no_quantised:
        return [], ["Quantised models were left out."]
    wanted = {
        "int8": (find_spec("torchao") is not None, "torchao is not installed"),
        "nf4": (
            torch.cuda.is_available() and find_spec("bitsandbytes") is not None,
            "it needs bitsandbytes and a CUDA device",
        ),
    }
    found = [name for name, (present, _) in wanted.items() if present]
    missing = [
        f"{name} was not run: {reason}."
        for name, (present, reason) in wanted.items()
        if not present
    ]
    return found, missing


def _texts(lab: Lab, kind: Role) -> list[str]:
    source = lab.scifact.documents if kind == "document" else lab.scifact.queries
    texts, count = list(source.values()), lab.options.speed_texts
    # evenly spread, so that a sorted corpus is sampled fairly
    return texts[:: max(1, len(texts) // count)][:count]


def timings(lab: Lab, contenders: list[Contender]) -> Times:
    """Return the seconds of every contender in every round, all of one run."""
    settings = {
        "contenders": [[lab.settings(variant), name] for variant, name in contenders],
        "texts": content_hash([_texts(lab, kind) for kind in KINDS]),
        "max_length": lab.options.max_length,
        "rounds": lab.options.rounds,
        "machine": [processor(), lab.options.threads, str(lab.options.device)],
    }

    def measure() -> dict[str, Any]:
        runs: dict[str, Run] = {}
        for place, (variant, precision) in enumerate(contenders):
            encoder = lab.load(lab.folder(variant), precision)
            encode = partial(search_vectors, encoder, max_length=lab.options.max_length)
            for kind in KINDS:
                texts = _texts(lab, kind)
                runs[f"{place} {kind}"] = partial(encode, texts, kind=kind)
        for run in runs.values():  # the first run also pays for allocators and kernels
            run()
        return {"seconds": take_turns(runs, lab.options.rounds)}

    found = lab.rows.row("speed", settings, measure)["seconds"]
    return {
        contender: {kind: found[f"{place} {kind}"] for kind in KINDS}
        for place, contender in enumerate(contenders)
    }


def _rate(lab: Lab, kind: Role, seconds: list[float]) -> str:
    return three(len(_texts(lab, kind)) / statistics.median(seconds))


def _gain(full: list[float], ours: list[float]) -> Gain:
    rounds = [slow / fast for slow, fast in zip(full, ours, strict=True)]
    return Gain(lowest=min(rounds), median=statistics.median(full) / statistics.median(ours))
