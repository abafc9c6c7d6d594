"""What `plan` finds at a share of the time, beside one width for all layers and dropped blocks.

All models of a share are brought to the same measured time, in turns with the full model:
`planned` is what `plan` chooses by known items of the corpus; `uniform` keeps every sublayer and
gives all MLPs one width, refitted; `blocks` drops whole blocks by importance and refits nothing, as
many as the time asks for, so that it is often faster than the rest. Then each is evaluated with the
test judgements, which nothing before has read, and timed again as it was exported. Intervals are of
the share of the full model's nDCG@10 (95 %, paired bootstrap over queries).

    python benchmarks/plan.py --data scifact --latency 0.75 0.5
    python benchmarks/plan.py --data scifact --keep-quality 0.99
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers
from minilm import MINILM_HELP, minilm
from subset import subset

from effir_integrations import PlanConfig, evaluate, export, load
from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.evaluation.intervals import interval
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.candidates import Chooser, Limits
from effir_integrations.pruning.config import DropConfig
from effir_integrations.pruning.costs import time_models
from effir_integrations.pruning.drop import drop
from effir_integrations.pruning.plan import prepare
from effir_integrations.pruning.search_plans import search_plans, to_time
from effir_integrations.pruning.trial import Trial

COLUMNS = ("target", "plan", "time", "attentions gone", "neurons", "nDCG@10", "share of full")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help=MINILM_HELP)
    add("--data", required=True, help="BEIR folder")
    add("--others", type=int, help="documents relevant to no query (default: all)")
    add("--max-length", type=int)
    add("--role", default="document", help="document or query: what is timed")
    add("--latency", type=float, nargs="*", default=[])
    add("--keep-quality", type=float, nargs="*", default=[])
    add("--rounds", type=int, default=5, help="of the last timing")
    return parser.parse_args()


def plans(
    trial: Trial, chooser: Chooser, options: argparse.Namespace
) -> Iterator[tuple[str, str, PruningPlan, float]]:
    """Yield target, name, plan, and the seconds that it took to find it."""
    settings = {"role": options.role, "max_length": options.max_length}
    for share in options.keep_quality:
        begun = time.perf_counter()
        config = PlanConfig(keep_quality=share, **settings)
        yield (
            f"quality {share}",
            "planned",
            search_plans(trial, chooser, config)[2],
            time.perf_counter() - begun,
        )
    for share in options.latency:
        begun = time.perf_counter()
        config = PlanConfig(latency=share, **settings)
        made = search_plans(trial, chooser, config)[2]
        yield f"time {share}", "planned", made, time.perf_counter() - begun
        limits = Limits(milliseconds=share * chooser.costs.full)
        for each in chooser.candidates(limits):
            if each.frame and each.frame.uniform and not each.drop_attention:
                found, _ = to_time(trial, chooser, each, limits)
                yield f"time {share}", "uniform", trial.make(found), 0.0
        yield f"time {share}", "blocks", blocks(trial, chooser, share), 0.0


def blocks(trial: Trial, chooser: Chooser, share: float) -> PruningPlan:
    """Drop as few blocks as bring the model below a share of the time, by the table of costs."""
    base, costs = trial.base, chooser.costs
    for count in range(1, base.layers):
        made = drop(base, DropConfig(block=count), chooser.report)
        if costs.of(made.mlp_widths, len(made.drop_attention)) <= share * costs.full:
            break
    return made


def line(
    target: str, name: str, plan: PruningPlan, ratio: float, data: RetrievalData, found: dict
) -> str:
    """Return a row of the table."""
    low, high = interval(np.divide, found["small"].ndcg_by_query, found["full"].ndcg_by_query)
    score = found["small"].metrics["nDCG@10"]
    cells = [
        target,
        name,
        f"{ratio:.3f}",
        f"{len(plan.drop_attention)} of {plan.base.layers}",
        f"{sum(plan.mlp_widths) / sum(plan.base.mlp_widths):.1%}",
        f"{score:.4f}",
        f"{score / found['full'].metrics['nDCG@10']:.4f} ({low:.3f} to {high:.3f})",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    base = options.model or minilm()
    data = subset(load_beir(options.data, "test"), others=options.others)
    texts = [text for text in data.documents.values()]
    begun = time.perf_counter()
    encoder = load(base)
    config = PlanConfig(latency=0.5, role=options.role, max_length=options.max_length)
    corpus = options.data if options.others is None else texts
    trial, chooser = prepare(encoder, config, corpus)
    prepared = time.perf_counter() - begun
    setting = ", ".join(f"{name} {value}" for name, value in chooser.costs.setting.items())
    full = evaluate(base, data, max_length=options.max_length)
    print(f"{data.name}, {full.documents} documents, {full.queries} queries, {setting}; ", end="")
    print(
        f"full model {chooser.costs.full:.2f} ms, nDCG@10 {full.metrics['nDCG@10']:.4f}; ", end=""
    )
    print(f"measuring before any search took {prepared:.0f} s; torch {torch.__version__}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    took = []
    with TemporaryDirectory() as temporary:
        for place, (target, name, plan, seconds) in enumerate(plans(trial, chooser, options)):
            if name == "planned":
                took.append(seconds)
            folder = Path(temporary) / str(place)
            small = export(base, plan, folder)
            times = time_models(
                encoder,
                [trial.model, transformer_model(small)],
                trial.material.work,
                rounds=options.rounds,
            )
            found = {"full": full, "small": evaluate(folder, data, max_length=options.max_length)}
            print(line(target, name, plan, times[1] / times[0], data, found), flush=True)
    print(f"\na search took {statistics.median(took):.0f} s (median of {len(took)})")


if __name__ == "__main__":
    main()
