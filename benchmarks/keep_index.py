"""Queries of a pruned model on the documents of the full one: what keeping an index costs.

One table: the full model, then at each share of the MLP neurons the pruned model's queries on the
full model's documents, and the pruned model alone. `reconstruct` on the shipped texts; no training,
no query and no judgement is read before the evaluation. Intervals are of the share of the full
model's nDCG@10 (95 %, paired bootstrap over queries).

With `--map` the pruned model's queries once more, behind a linear map that `pair` solves for on the
shipped texts or on `--map-texts`: a file or a BEIR folder, whose documents are taken; give no query
of the test split. Models that lie in `--work` as `keep-SHARE` are taken from there, such as
distilled ones.

    python benchmarks/keep_index.py --data scifact
    python benchmarks/keep_index.py --data scifact --model all-mpnet-base-v2 --keep 0.5
    python benchmarks/keep_index.py --data scifact --map ridge procrustes --map-texts train.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers
from minilm import MINILM_HELP, minilm
from subset import subset

from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.evaluation.encoded import Encoded, Settings, encode_data
from effir_integrations.evaluation.evaluate import Evaluation, score
from effir_integrations.evaluation.intervals import interval
from effir_integrations.pairing.mapping import MAPS, Mapped
from effir_integrations.pairing.pair import pair
from effir_integrations.pruning.compress import compress
from effir_integrations.pruning.config import CompressConfig

COLUMNS = (
    "queries by",
    "documents by",
    "parameters of the query encoder",
    "nDCG@10",
    "share of full",
    "R@100",
    "mean cosine of queries",
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help=MINILM_HELP)
    add("--data", required=True, help="BEIR folder or datasets name")
    add("--others", type=int, help="documents relevant to no query (default: all)")
    add("--max-length", type=int, default=256)
    add("--keep", type=float, nargs="+", default=[0.5, 0.3, 0.15])
    add("--dtype", default="fp32", help="precision of the evaluation")
    add("--map", nargs="+", choices=MAPS, default=[], help="maps behind the pruned model")
    add("--map-texts", nargs="+", default=[None], help="what each is fitted to (default: shipped)")
    add("--work", type=Path, help="keep models here (default: a temporary folder)")
    return parser.parse_args()


def line(row: Evaluation, full: Evaluation, ours: str) -> str:
    """Return a row of the table; `ours` says what encoded the queries."""
    share = "1"
    if row is not full:
        low, high = interval(np.divide, row.ndcg_by_query, full.ndcg_by_query)
        value = row.metrics["nDCG@10"] / full.metrics["nDCG@10"]
        share = f"{value:.4f} ({low:.3f} to {high:.3f})"
    cells = [
        ours,
        "full" if row.documents_by or row is full else "the same",
        f"{row.parameters:,}",
        f"{row.metrics['nDCG@10']:.4f}",
        share,
        f"{row.metrics['R@100']:.4f}",
        "" if row.query_cosine is None else f"{row.query_cosine:.4f}",
    ]
    return f"| {' | '.join(cells)} |"


def lines_of(
    options: argparse.Namespace,
    data: RetrievalData,
    settings: Settings,
    full: tuple[Encoded, Evaluation],
    keep: float,
    work: Path,
) -> list[str]:
    """Return the rows of one share of the neurons, and keep its model in a folder."""
    kept, best = full
    base, small = options.model or minilm(), work / f"keep-{keep}"
    if not small.is_dir():
        compress(base, small, CompressConfig(keep_neurons=keep))
    ours, found = f"{keep:.0%} of the neurons", encode_data(small, data, settings)
    lines = [line(score(found, data, kept), best, ours), line(score(found, data), best, ours)]
    for texts in options.map_texts:
        for method in options.map:
            place = work / f"pair-{keep}-{method}-{Path(texts or 'shipped').stem}"
            made = pair(small, base, place, map=method, texts=texts, apart=True, force=True)
            assert made.queries is not None and made.map is not None
            mapped = encode_data(made.queries, data, settings, queries_alone=True)
            by = f"{ours}, {_described(made.map)}"
            lines.append(line(score(mapped, data, kept), best, by))
    return lines


def _described(found: Mapped) -> str:
    stays = "" if found.kept else " (left out)"
    change = f"{found.before:.3f} to {found.after:.3f}"
    return f"{found.method}{stays}, {found.texts:,} texts ({Path(found.source).name}): {change}"


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    data = subset(load_beir(options.data, "test"), others=options.others)
    settings = Settings(max_length=options.max_length, dtype=options.dtype)
    found = encode_data(options.model or minilm(), data, settings)
    full = score(found, data)
    print(f"{data.name}, {full.documents} documents, {full.queries} queries, ", end="")
    print(f"{options.max_length} tokens, {full.dtype}, torch {torch.__version__}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    print(line(full, full, "full"), flush=True)
    with TemporaryDirectory() as temporary:
        for keep in options.keep:
            work = options.work or Path(temporary)
            rows = lines_of(options, data, settings, (found, full), keep, work)
            print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
