"""What a smaller vocabulary costs: megabytes and nDCG@10 at several sizes, alone and with pruning.

The tokens that stay are those of the corpus; no query and no judgement is read before the
evaluation. `all` keeps every token that the corpus needs, `twice` those that it needs twice, a
number so many. Intervals are of the share of the full model's nDCG@10 (95 %, paired bootstrap over
queries).

    python benchmarks/trim.py --data scifact --size all twice 12000 --keep-neurons 0.5
    python benchmarks/trim.py --data docstrings --model effir-mini --size 12288
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers
from minilm import MINILM_HELP, minilm
from subset import subset

from effir_integrations import CompressConfig, TrimConfig, compress, trim
from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.demo.docstrings import build_docstring_corpus
from effir_integrations.evaluation.encoded import Settings, encode_data
from effir_integrations.evaluation.evaluate import Evaluation, score
from effir_integrations.evaluation.intervals import interval

COLUMNS = (
    "model",
    "tokens",
    "parameters",
    "MB",
    "of the full folder",
    "nDCG@10",
    "share of full",
    "tokens spelled by others, held out",
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help=MINILM_HELP)
    add("--data", required=True, help="BEIR folder, or docstrings, which are made on the spot")
    add("--others", type=int, help="documents relevant to no query (default: all)")
    add("--max-length", type=int, default=256)
    add("--size", nargs="+", default=["all", "twice"], help="all, twice, or numbers of tokens")
    add("--keep-neurons", type=float, help="also prune each trimmed model, on the corpus's texts")
    add("--calibration-texts", type=int, default=512)
    add("--dtype", default="fp32", help="precision of the evaluation")
    return parser.parse_args()


def config_of(size: str) -> TrimConfig:
    """Return the settings that a name stands for."""
    named = {"all": TrimConfig(), "twice": TrimConfig(min_count=2)}
    return named[size] if size in named else TrimConfig(size=int(size))


def measured(folder: str | Path, data: RetrievalData, settings: Settings) -> Evaluation:
    """Encode everything and score it."""
    return score(encode_data(folder, data, settings), data)


def rows(
    options: argparse.Namespace, data: RetrievalData, corpus: list[str], work: Path
) -> Iterator[tuple[list[str], Evaluation]]:
    """Yield name, tokens and what held-out texts lose, and the figures of every trimmed model."""
    settings = Settings(max_length=options.max_length, dtype=options.dtype)
    for size in options.size:
        made = trim(options.model or minilm(), work / size, config_of(size), texts=corpus)
        lost = "" if made.lost_held_out is None else f"{made.lost_held_out:.2%}"
        about = [f"trimmed to {size}", f"{made.tokens:,}", lost]
        yield about, measured(made.out, data, settings)
        if options.keep_neurons is not None:
            config = CompressConfig(
                keep_neurons=options.keep_neurons, calibration_texts=options.calibration_texts
            )
            pruned = work / f"{size}-pruned"
            compress(made.out, pruned, config, texts=corpus)
            about[0] += f", {options.keep_neurons:.0%} of the neurons"
            yield about, measured(pruned, data, settings)


def line(about: list[str], row: Evaluation, full: Evaluation) -> str:
    """Return a row of the table."""
    share = "1"
    if row is not full:
        low, high = interval(np.divide, row.ndcg_by_query, full.ndcg_by_query)
        value = row.metrics["nDCG@10"] / full.metrics["nDCG@10"]
        share = f"{value:.4f} ({low:.3f} to {high:.3f})"
    name, tokens, lost = about
    assert row.bytes is not None and full.bytes is not None
    cells = [
        name,
        tokens,
        f"{row.parameters:,}",
        f"{row.bytes / 1e6:.1f}",
        f"{row.bytes / full.bytes:.1%}",
        f"{row.metrics['nDCG@10']:.4f}",
        share,
        lost,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with TemporaryDirectory() as temporary:
        work, source = Path(temporary), options.data
        if source == "docstrings":
            source = build_docstring_corpus(work / source)
        data = subset(load_beir(source, "test"), others=options.others)
        settings = Settings(max_length=options.max_length, dtype=options.dtype)
        full = measured(options.model or minilm(), data, settings)
        print(f"{data.name}, {full.documents} documents, {full.queries} queries, ", end="")
        print(f"{options.max_length} tokens, {full.dtype}, torch {torch.__version__}\n")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        print(line(["full", "", ""], full, full), flush=True)
        for about, row in rows(options, data, list(data.documents.values()), work):
            print(line(about, row, full), flush=True)


if __name__ == "__main__":
    main()
