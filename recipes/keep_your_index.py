"""Keep the index of the full model, and answer from it with a smaller one: what it gives and costs.

The documents are embedded once, by the full model (`--model`). Then every query is asked twice in
turn: by the full model and by the pruned one, which `pair` puts beside it. One thread computes, so
that what a query takes is what it costs. Without arguments: effir-mini and half of its neurons, on
docstrings of Python's library.

    python recipes/keep_your_index.py --model MODEL --small SMALLER --data beir/scifact

Needs: pip install "effir-integrations[eval,llama-index,pyserini]", or what `--through` names
"""

from __future__ import annotations

import importlib
import statistics
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import DEPTH, Recipe, recipe_parser
from rich.table import Table

from effir_integrations import errors
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.cli import console
from effir_integrations.encoder.model_files import identify_files
from effir_integrations.evaluation.models import model_bytes
from effir_integrations.evaluation.retrieval import Run
from effir_integrations.pairing.mapping import MAPS
from effir_integrations.pairing.pair import pair
from effir_integrations.progress import progress_bar
from effir_integrations.pruning.compress import compress
from effir_integrations.pruning.config import CompressConfig

MILLION = 1_000_000
Find = Callable[[str], dict[str, float]]
"""Text of a query -> document id -> score."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One encoder's queries on the full model's documents, through one library."""

    through: str
    queries_by: str
    ndcg: float
    """nDCG@10."""
    p50_ms: float
    """Median milliseconds of a query, encoded and searched."""
    mb: float
    """Of the query encoder's files."""
    cpu_hours: float
    """That a million queries take, at the median."""
    price: float | None
    """Of these hours, where that of one is known."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, index, ask, and print."""
    options = command_line().parse_args(arguments)
    with errors.plain_errors(options.debug):
        errors.quiet_libraries()
        torch.set_num_threads(1)
        recipe = Recipe("keep_your_index", options)
        both = paired(recipe)
        rows = [row for name in options.through for row in answers(recipe, both, name)]
        content = [asdict(row) for row in rows] if options.json else table(recipe, rows)
        console.show(content, options.json, quiet=False)


def command_line() -> ArgumentParser:
    """Return a parser of this recipe's options."""
    parser = recipe_parser(__doc__ or "")
    # what is timed should be what would be served: bf16 is slow where the hardware has none
    parser.set_defaults(precision="auto")
    add = parser.add_argument
    add("--small", help="pruned model folder; default: --model with --keep of its neurons")
    add("--keep", type=float, default=0.5, help="its share of neurons (default: %(default)s)")
    add("--map", choices=MAPS, help="put a linear map behind the pruned model, as effir pair does")
    add("--map-texts", help="what the map is fitted to; default: the shipped texts")
    add("--through", nargs="+", choices=SEARCHES, default=list(SEARCHES), help="libraries")
    add("--price-per-hour", type=float, help="of one core, to print what a million queries cost")
    return parser


def paired(recipe: Recipe) -> Path:
    """Return the folder of the pair, and beside it that of the query encoder alone; made once."""
    options = recipe.options
    small = options.small
    if small is None:
        small = pruned(recipe)
    made_of = {
        "small": identify_files(small).identity,
        "map": options.map,
        "map_texts": options.map_texts,
    }

    def build(folder: Path) -> None:
        texts = options.map_texts
        how: dict[str, Any] = {
            "map": options.map,
            "texts": texts,
            "show_progress": recipe.show_progress,
        }
        pair(small, recipe.model, folder / "both", apart=True, **how)

    return recipe.stage("pair", build, made_of).folder / "both"


def pruned(recipe: Recipe) -> Path:
    """Return the folder of the full model with fewer neurons; made once."""
    keep, shown = recipe.options.keep, recipe.show_progress

    def build(folder: Path) -> None:
        settings = CompressConfig(keep_neurons=keep)
        compress(recipe.model, folder / "small", settings, show_progress=shown)

    return recipe.stage("pruned", build, {"keep": keep}).folder / "small"


def answers(recipe: Recipe, both: Path, through: str) -> list[Row]:
    """Ask all queries through one library, by the full model and by the pair in turn."""
    options = recipe.options
    asked = LazyEncoder(
        both,
        device=options.device,
        precision=options.precision,
        max_length=options.max_length,
    )
    search = SEARCHES[through](recipe)
    finders = {"full": search(recipe.encoder), "pruned": search(asked)}
    runs, latencies = ask_in_turn(recipe, finders)
    alone = both.with_name(f"{both.name}-queries")
    tower: Any = asked.encoder
    sizes = {
        "full": model_bytes(recipe.encoder.encoder, recipe.model),
        "pruned": model_bytes(tower.tower("query"), alone),
    }
    rows = []
    for name, run in runs.items():
        hours = latencies[name] / 1000 * MILLION / 3600
        scored = recipe.evaluation(f"{through}, {name}", run)
        rows.append(
            Row(
                through=through,
                queries_by=name,
                ndcg=scored.metrics["nDCG@10"],
                p50_ms=latencies[name],
                mb=sizes[name] / 1e6,
                cpu_hours=hours,
                price=None if options.price_per_hour is None else hours * options.price_per_hour,
            )
        )
    return rows


def ask_in_turn(
    recipe: Recipe, finders: dict[str, Find]
) -> tuple[dict[str, Run], dict[str, float]]:
    """Ask each query of each finder, so that a machine's busy moments are shared by all.

    Returns:
        A run and the median milliseconds of a query, of each finder.
    """
    runs: dict[str, Run] = {name: {} for name in finders}
    seconds: dict[str, list[float]] = {name: [] for name in finders}
    queries = recipe.data.queries
    for find in finders.values():  # what is done once is done before the clock runs
        find(next(iter(queries.values())))
    shown = recipe.show_progress
    for query, text in progress_bar(queries.items(), desc="Asking", unit="query", shown=shown):
        for name, find in finders.items():
            start = time.perf_counter()
            runs[name][query] = find(text)
            seconds[name].append(time.perf_counter() - start)
    return runs, {name: 1000 * statistics.median(taken) for name, taken in seconds.items()}


def depth(recipe: Recipe) -> int:
    """Return how many documents are asked for: a query's own may be left out."""
    return min(DEPTH + 1, len(recipe.data.documents))


def by_faiss(recipe: Recipe) -> Callable[[LazyEncoder], Find]:
    """Put the documents into a flat index, once, and return how an encoder asks it."""
    import faiss
    from beir_sentence_transformers import build_index

    faiss.omp_set_num_threads(1)
    stage = recipe.stage("faiss", lambda folder: build_index(recipe, folder))
    index = faiss.read_index(str(stage.folder / "documents.faiss"))
    ids = (stage.folder / "documents.ids.txt").read_text(encoding="utf-8").splitlines()

    def search(encoder: LazyEncoder) -> Find:
        def find(query: str) -> dict[str, float]:
            scores, rows = index.search(encoder.embed([query], "query"), depth(recipe))
            return {ids[row]: float(score) for row, score in zip(rows[0], scores[0], strict=True)}

        return find

    return search


def by_llama_index(recipe: Recipe) -> Callable[[LazyEncoder], Find]:
    """Build a VectorStoreIndex of the documents, once, and return how an encoder asks it."""
    from beir_llama_index import build_index, load_index

    from effir_integrations.adapters.llama_index import EffirEmbedding

    def embedding(encoder: LazyEncoder) -> EffirEmbedding:
        return EffirEmbedding.from_model(encoder.encoder, max_length=recipe.options.max_length)

    stage = recipe.stage(
        "llama_index", lambda folder: build_index(recipe, embedding(recipe.encoder), folder)
    )

    def search(encoder: LazyEncoder) -> Find:
        index = load_index(embedding(encoder), stage.folder)
        retriever = index.as_retriever(similarity_top_k=depth(recipe))

        def find(query: str) -> dict[str, float]:
            found = retriever.retrieve(query)
            return {result.node.node_id: float(result.get_score()) for result in found}

        return find

    return search


def by_pyserini(recipe: Recipe) -> Callable[[LazyEncoder], Find]:
    """Let Pyserini encode the documents, once, and return how an encoder asks its searcher."""
    from beir_pyserini import Commands, write_texts

    from effir_integrations.adapters.pyserini.encoders import EffirQueryEncoder
    from effir_integrations.pyserini import register

    length = recipe.options.max_length
    with (recipe.out / "pyserini.log").open("w", encoding="utf-8") as log:
        commands = Commands(recipe, log)
        with commands.logged():
            register()
        texts = recipe.stage("documents", lambda folder: write_texts(recipe, folder)).folder

        def build(folder: Path) -> None:
            line = "input --corpus {corpus} --fields text output --embeddings {folder} --to-faiss "
            line += "encoder --encoder {model} --fields text"
            line += "" if length is None else f" --max-length {length}"
            corpus = texts / "texts" / "documents.jsonl"
            commands.run("pyserini.encode", line, corpus=corpus, folder=folder)

        stage = recipe.stage("pyserini", build)

    def search(encoder: LazyEncoder) -> Find:
        searcher: Any = importlib.import_module("pyserini.search.faiss")
        asked = EffirQueryEncoder(encoder, max_length=length)
        # the index says who encoded it: the full one and the pair are let in, others are not
        opened = searcher.FaissSearcher(str(stage.folder), asked)

        def find(query: str) -> dict[str, float]:
            return {hit.docid: float(hit.score) for hit in opened.search(query, depth(recipe))}

        return find

    return search


SEARCHES: dict[str, Callable[[Recipe], Callable[[LazyEncoder], Find]]] = {
    "faiss": by_faiss,
    "llama_index": by_llama_index,
    "pyserini": by_pyserini,
}
"""Library -> what indexes with the full model and returns how any encoder asks."""


def table(recipe: Recipe, rows: Sequence[Row]) -> Table:
    """Lay the rows out, and the pruned model's nDCG@10 as a share of the full one's."""
    title = f"{recipe.data.name}, documents by {recipe.model}, one thread"
    made = Table(title=title)
    priced = any(row.price is not None for row in rows)
    columns = ["through", "queries by", "nDCG@10", "of full", "p50 ms", "MB", "CPU-h per million"]
    for name in [*columns, *(["price per million"] if priced else [])]:
        made.add_column(name, justify="left" if name in columns[:2] else "right")
    full = {row.through: row.ndcg for row in rows if row.queries_by == "full"}
    for row in rows:
        share = row.ndcg / full[row.through] if full[row.through] else float("nan")
        cells = [row.through, row.queries_by, f"{row.ndcg:.4f}", f"{share:.1%}"]
        cells += [f"{row.p50_ms:.2f}", f"{row.mb:.1f}", f"{row.cpu_hours:.2f}"]
        made.add_row(*cells, *([] if row.price is None else [f"{row.price:.2f}"]))
    return made


if __name__ == "__main__":
    main()
