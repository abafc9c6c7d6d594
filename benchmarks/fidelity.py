"""How well `check`, which reads no judgement, tells what judgements tell, over many pruned models.

MLP neurons removed by three methods at six sizes, MLPs dropped, attentions dropped. Of each, the
share of the full model's nDCG@10 by the test judgements of a BEIR corpus, and what `check` says of
the same documents by known items and by the corpus's own queries; then Spearman's rank correlation
of each figure with the share. Rows that the --json file holds are not measured again.

    python benchmarks/fidelity.py --data scifact --others 300 --max-length 64 --json fidelity.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from claims.checks import correlation
from minilm import MINILM_HELP, minilm
from subset import subset

from effir_integrations import check, evaluate
from effir_integrations.data.beir import load_beir
from effir_integrations.pruning.compress import compress
from effir_integrations.pruning.config import CompressConfig

SIZES = (0.9, 0.7, 0.5, 0.3, 0.15, 0.05)
METHODS = ("plain", "mean", "reconstruct")
SIGNS = (
    "own overlap",
    "own rank-biased",
    "known overlap",
    "known rank-biased",
    "known MRR",
    "cosine of documents",
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help=MINILM_HELP)
    add("--data", required=True, help="BEIR folder")
    add("--others", type=int, help="documents relevant to no query (default: all)")
    add("--max-length", type=int, default=256)
    add("--work", type=Path, help="keep models here (default: a temporary folder)")
    add("--json", type=Path, help="rows, also to resume from")
    return parser.parse_args()


def variants() -> Iterator[tuple[str, CompressConfig]]:
    """Yield every model's name and how it is made."""
    for method in METHODS:
        for size in SIZES:
            config = CompressConfig(keep_neurons=size, method=method, multiple_of=8)
            yield f"{size:.0%} of the neurons, {method}", config
    for count in (1, 2, 3, 4):
        yield f"{count} MLPs dropped", CompressConfig(drop_mlp=count)
    for count in (1, 2, 3):
        yield f"{count} attentions dropped", CompressConfig(drop_attention=count)


def measure(base: str, model: Path, data: Any, options: argparse.Namespace) -> dict[str, float]:
    """Return what judgements say, and what `check` says without them."""
    length = options.max_length
    texts, queries = list(data.documents.values()), list(data.queries.values())
    own = check(base, model, texts, queries=queries, max_length=length)
    known = check(base, model, texts, max_length=length)
    return {
        "nDCG@10": evaluate(model, data, max_length=length).metrics["nDCG@10"],
        "own overlap": own.alone.overlap,
        "own rank-biased": own.alone.rank_biased,
        "known overlap": known.alone.overlap,
        "known rank-biased": known.alone.rank_biased,
        "known MRR": known.alone.known_item or 0.0,
        "cosine of documents": own.document_cosine or 0.0,
    }


def main() -> None:
    """Measure what is missing, and print the table and the correlations."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    base = options.model or minilm()
    data = subset(load_beir(options.data, "test"), others=options.others)
    rows: dict[str, dict[str, float]] = {}
    if options.json is not None and options.json.is_file():
        rows = json.loads(options.json.read_text(encoding="utf-8"))
    full = evaluate(base, data, max_length=options.max_length).metrics["nDCG@10"]
    print(f"{data.name}, {len(data.documents)} documents, {len(data.queries)} queries, ", end="")
    print(f"{options.max_length} tokens; the full model's nDCG@10 is {full:.4f}\n")
    print(f"| model | share of nDCG@10 | {' | '.join(SIGNS)} |\n|{'---|' * (2 + len(SIGNS))}")
    with TemporaryDirectory() as temporary:
        for name, config in variants():
            if name not in rows:
                folder = (options.work or Path(temporary)) / name.replace(" ", "-").replace(",", "")
                if not folder.is_dir():
                    compress(base, folder, config)
                rows[name] = measure(base, folder, data, options)
                if options.json is not None:
                    options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            cells = [f"{rows[name]['nDCG@10'] / full:.4f}"]
            cells += [f"{rows[name][sign]:.4f}" for sign in SIGNS]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    shares = [row["nDCG@10"] / full for row in rows.values()]
    found = (correlation(shares, [row[sign] for row in rows.values()]) for sign in SIGNS)
    print(f"| rank correlation with the share | | {' | '.join(f'{x:.3f}' for x in found)} |")


if __name__ == "__main__":
    main()
