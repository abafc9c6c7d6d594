"""Queries of a pruned model on the documents of the full one: what keeping an index costs.

One table: the full model, then at each share of the MLP neurons the pruned model's queries on the
full model's documents, and the pruned model alone. `reconstruct` on the shipped texts; no training,
no query and no judgement is read before the evaluation. Intervals are of the share of the full
model's nDCG@10 (95 %, paired bootstrap over queries).

    python benchmarks/keep_index.py --data scifact
    python benchmarks/keep_index.py --data scifact --model all-mpnet-base-v2 --keep 0.5
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

from effir_integrations.data.beir import load_beir
from effir_integrations.evaluation.compare import compare
from effir_integrations.evaluation.evaluate import Evaluation
from effir_integrations.evaluation.intervals import interval
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
    add("--work", type=Path, help="keep models here (default: a temporary folder)")
    return parser.parse_args()


def line(row: Evaluation, full: Evaluation, keep: float | None) -> str:
    """Return a row of the table."""
    ours = "full" if keep is None else f"{keep:.0%} of the neurons"
    share = "1"
    if keep is not None:
        low, high = interval(np.divide, row.ndcg_by_query, full.ndcg_by_query)
        value = row.metrics["nDCG@10"] / full.metrics["nDCG@10"]
        share = f"{value:.4f} ({low:.3f} to {high:.3f})"
    cells = [
        ours,
        "full" if row.documents_by else ours,
        f"{row.parameters:,}",
        f"{row.metrics['nDCG@10']:.4f}",
        share,
        f"{row.metrics['R@100']:.4f}",
        "" if row.query_cosine is None else f"{row.query_cosine:.4f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    base = options.model or minilm()
    data = subset(load_beir(options.data, "test"), others=options.others)
    with TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        models = {keep: work / f"keep-{keep}" for keep in options.keep}
        for keep, folder in models.items():
            if not folder.is_dir():
                compress(base, folder, CompressConfig(keep_neurons=keep))
        full, *rows = compare(
            list(models.values()),
            data,
            documents=base,
            max_length=options.max_length,
            dtype=options.dtype,
            speed_rounds=0,
        )
    print(f"{data.name}, {full.documents} documents, {full.queries} queries, ", end="")
    print(f"{options.max_length} tokens, {full.dtype}, torch {torch.__version__}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    print(line(full, full, None))
    for keep, pair in zip(models, zip(rows[::2], rows[1::2], strict=True), strict=True):
        for row in pair:
            print(line(row, full, keep))


if __name__ == "__main__":
    main()
