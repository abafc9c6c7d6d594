"""How well `check`, which reads no judgement, tells what judgements tell, over many pruned models.

MLP neurons removed by three methods at six sizes, MLPs dropped, attentions dropped. Of each, the
share of the full model's nDCG@10 by the test judgements of a BEIR corpus, and what `check` says of
the same documents by known items and by the corpus's own queries; then Spearman's rank correlation
of each figure with the share. Rows that the --json file holds are not measured again.

    python benchmarks/fidelity.py --data scifact --others 300 --max-length 64 --json scifact.json
    python benchmarks/fidelity.py --draw docs/results/fidelity.png scifact.json dbpedia-mini.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers
from claims.checks import correlation
from minilm import MINILM_HELP, minilm
from subset import subset

from effir_integrations import load
from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.encoder.search_vectors import search_vectors
from effir_integrations.evaluation.check import Answers, fidelity
from effir_integrations.evaluation.known_items import Questions, Record, asked_of, read_records
from effir_integrations.evaluation.retrieval import rank, score_run
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
    add("--data", help="BEIR folder")
    add("--others", type=int, help="documents relevant to no query (default: all)")
    add("--known", type=int, default=300, help="known items that are asked for, at most")
    add("--max-length", type=int, default=256)
    add("--work", type=Path, help="keep models here (default: a temporary folder)")
    add("--json", type=Path, help="rows, also to resume from")
    add("--draw", nargs="+", type=Path, metavar=("PNG", "JSON"), help="draw what was measured")
    options = parser.parse_args()
    if not (options.draw or options.data):
        parser.error("give --data, or --draw with the rows that were measured")
    return options


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


def answers(model: str | Path, asked: dict[str, Questions], length: int) -> dict[str, Answers]:
    """Encode the documents of two sets of questions, which are mostly the same, but once."""
    encoder = load(str(model))
    texts = list(dict.fromkeys(text for each in asked.values() for text in each.documents))
    vectors = search_vectors(encoder, texts, kind="document", max_length=length)
    places = {text: place for place, text in enumerate(texts)}
    return {
        name: Answers(
            queries=search_vectors(encoder, each.queries, kind="query", max_length=length),
            documents=vectors[[places[text] for text in each.documents]],
        )
        for name, each in asked.items()
    }


def by_judgements(data: RetrievalData, found: Answers) -> float:
    """Return nDCG@10."""
    run = rank(
        list(data.documents),
        found.documents,
        list(data.queries),
        found.queries,
        drop_same_id=data.drops_same_id,
    )
    return score_run(data.qrels, run)["nDCG@10"]


def signs(
    asked: dict[str, Questions], full: dict[str, Answers], small: dict[str, Answers]
) -> dict[str, float]:
    """Return what `check` says."""
    own, known = (
        fidelity(asked[name], full[name], small[name], full="full", small="small")
        for name in ("own", "known")
    )
    return {
        "own overlap": own.alone.overlap,
        "own rank-biased": own.alone.rank_biased,
        "known overlap": known.alone.overlap,
        "known rank-biased": known.alone.rank_biased,
        "known MRR": (known.alone.known_item or 0.0) / (known.known_item_full or 1.0),
        "cosine of documents": own.document_cosine or 0.0,
    }


def draw(out: Path, files: list[Path]) -> None:
    """Draw the share of nDCG@10 against the overlap of every model, a panel for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (3.4 * len(files), 3.4)
    figure, panels = pyplot.subplots(1, len(files), figsize=size, squeeze=False, sharey=True)
    for panel, file in zip(panels[0], files, strict=True):
        rows = json.loads(file.read_text(encoding="utf-8"))
        for kind in (*METHODS, "MLPs dropped", "attentions dropped"):
            found = [row for name, row in rows.items() if name.endswith(kind)]
            shares = [row["share"] for row in found]
            panel.scatter([row[SIGNS[0]] for row in found], shares, s=18, label=kind)
        ranks = correlation(
            [r["share"] for r in rows.values()], [r[SIGNS[0]] for r in rows.values()]
        )
        panel.set_title(f"{file.stem} (rank correlation {ranks:.2f})", fontsize=9)
        panel.set_xlabel("overlap of the ten best, by check")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("share of nDCG@10, by judgements")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    """Measure what is missing, and print the table and the correlations; or draw them."""
    options = arguments()
    if options.draw:
        draw(options.draw[0], options.draw[1:])
        return
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    base = options.model or minilm()
    data = subset(load_beir(options.data, "test"), others=options.others)
    rows: dict[str, dict[str, float]] = {}
    if options.json is not None and options.json.is_file():
        rows = json.loads(options.json.read_text(encoding="utf-8"))
    length = options.max_length
    by_text = {record.whole: record for record in read_records(options.data, sys.maxsize)}
    records = [by_text.get(text) or Record("", text) for text in data.documents.values()]
    asked = {
        "own": asked_of(records, list(data.queries.values()), len(data.queries), 0),
        "known": asked_of(records, None, options.known, 0),
    }
    theirs = answers(base, asked, length)
    full = by_judgements(data, theirs["own"])
    print(f"{data.name}, {len(data.documents)} documents, {len(data.queries)} queries, ", end="")
    print(f"{options.max_length} tokens; the full model's nDCG@10 is {full:.4f}\n")
    print(f"| model | share of nDCG@10 | {' | '.join(SIGNS)} |\n|{'---|' * (2 + len(SIGNS))}")
    with TemporaryDirectory() as temporary:
        for name, config in variants():
            if name not in rows:
                folder = (options.work or Path(temporary)) / name.replace(" ", "-").replace(",", "")
                if not folder.is_dir():
                    compress(base, folder, config)
                ours = answers(folder, asked, length)
                rows[name] = {"share": by_judgements(data, ours["own"]) / full}
                rows[name] |= signs(asked, theirs, ours)
                if options.json is not None:
                    options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            cells = [f"{rows[name]['share']:.4f}"]
            cells += [f"{rows[name][sign]:.4f}" for sign in SIGNS]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    shares = [row["share"] for row in rows.values()]
    found = (correlation(shares, [row[sign] for row in rows.values()]) for sign in SIGNS)
    print(f"| rank correlation with the share | | {' | '.join(f'{x:.3f}' for x in found)} |")


if __name__ == "__main__":
    main()
