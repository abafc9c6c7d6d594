"""Index and evaluate a BEIR corpus with Pyserini: dense flat and HNSW, BM25, and both fused.

Everything runs through Pyserini's own commands, in one process with one JVM; a Java is brought
along. The commands are printed, and what they print goes to OUT/pyserini.log. Without arguments:
effir-mini on docstrings of Python's library.

    python recipes/beir_pyserini.py --model MODEL --data beir/scifact

Needs: pip install "effir-integrations[pyserini]"
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from common import Recipe, recipe_parser, run_recipe

from effir_integrations.adapters.pyserini.encoders import PRECISION_VARIABLE
from effir_integrations.adapters.pyserini.topics import write_qrels, write_topics
from effir_integrations.evaluation.evaluate import Evaluation
from effir_integrations.evaluation.retrieval import Run
from effir_integrations.pyserini import launch, register

HITS = 1000
"""Documents a query that is searched for and fused, as in Pyserini's published runs."""
TOLERANCE = 0.0005
"""By which the scorers may differ, since runs hold scores to six digits only."""


class Commands:
    """Runs commands of Pyserini for a recipe, says which, and keeps what they print."""

    def __init__(self, recipe: Recipe, log: IO[str]) -> None:
        self.recipe, self.log = recipe, log
        self.threads = os.cpu_count() or 1

    def run(self, module: str, line: str, **paths: object) -> str:
        """Run `python -m MODULE LINE` with paths filled in, and return what Python printed."""
        places = {"threads": self.threads, "hits": HITS, "model": self.recipe.model, **paths}
        arguments = [token.format(**places) for token in line.split()]
        words = shlex.join(["python", "-m", f"effir_integrations.{module}", *arguments])
        # a folder has another name while it is made
        self.say("$ " + re.sub(r"\.([^/ ]+)\.partial-[0-9a-f]+", r"\1", words))
        printed = io.StringIO()
        with self.logged(), contextlib.redirect_stdout(printed):
            launch(module, arguments, encoder=self.recipe.encoder)
        self.log.write(printed.getvalue())
        return printed.getvalue()

    def timed(self, module: str, line: str, **paths: object) -> float:
        """Do as `run`, and return the seconds it took."""
        start = time.perf_counter()
        self.run(module, line, **paths)
        return time.perf_counter() - start

    def say(self, text: str) -> None:
        """Write a line to the log, and to standard error where that is wanted."""
        self.log.write(text + "\n")
        if self.recipe.show_progress:
            sys.stderr.write(text + "\n")

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Send what Python and Java print to the log; standard output is for the result alone."""
        streams = [(1, sys.stdout)] + ([] if self.recipe.show_progress else [(2, sys.stderr)])
        kept = {}
        for number, stream in streams:
            stream.flush()
            kept[number] = os.dup(number)
        self.log.flush()
        try:
            for number in kept:
                os.dup2(self.log.fileno(), number)
            yield
        finally:
            self.log.flush()
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)


def index_and_search(recipe: Recipe) -> list[Evaluation]:
    """Index the documents three times, search in four ways, and score the runs."""
    place = recipe.out / "pyserini"
    place.mkdir(exist_ok=True)
    with (recipe.out / "pyserini.log").open("w", encoding="utf-8") as log:
        commands = Commands(recipe, log)
        with commands.logged():
            register()
        # loaded here, so that no figure below holds the time it takes
        _ = recipe.encoder.encoder
        write_topics(recipe.data.queries, place / "topics.json")
        write_qrels(recipe.data.qrels, place / "qrels.txt")
        commands.say(f"$ export {PRECISION_VARIABLE}={recipe.options.precision or 'checkpoint'}")
        texts = recipe.stage("documents", lambda folder: write_texts(recipe, folder)).folder
        results = {
            **dense(commands, place, texts / "texts"),
            "bm25": bm25(commands, place, texts / "texts"),
            "fused": fused(commands, place),
        }
        # for this machine Pyserini has no trec_eval
        if (platform.system(), platform.machine()) != ("Linux", "aarch64"):
            for name, result in results.items():
                check_by_trec_eval(commands, place, name, result)
    return list(results.values())


def write_texts(recipe: Recipe, folder: Path) -> None:
    """Write the documents as both the encoder and Lucene read them."""
    (folder / "texts").mkdir()
    with (folder / "texts" / "documents.jsonl").open("w", encoding="utf-8") as stream:
        for identifier, text in recipe.data.documents.items():
            stream.write(json.dumps({"id": identifier, "text": text, "contents": text}) + "\n")


def dense(commands: Commands, place: Path, texts: Path) -> dict[str, Evaluation]:
    """Encode into a flat index, make a graph of it, and search both."""
    recipe, options = commands.recipe, commands.recipe.options
    extra = "".join(
        f" --{name} {value}"
        for name, value in (("max-length", options.max_length), ("device", options.device))
        if value is not None
    )

    def encode(folder: Path) -> None:
        line = "input --corpus {corpus} --fields text output --embeddings {folder} --to-faiss "
        line += "encoder --encoder {model} --fields text" + extra
        commands.run("pyserini.encode", line, corpus=texts / "documents.jsonl", folder=folder)

    def link(folder: Path) -> None:
        line = "--input {flat} --output {folder} --hnsw --M 16 --efC 100 --threads {threads}"
        commands.run("pyserini.index.faiss", line, flat=flat.folder, folder=folder)

    flat = recipe.stage("flat", encode)
    graph = recipe.stage("hnsw", link)
    line = "--index {index} --encoder {model} --topics {topics} --output {run} --hits {hits} "
    line += "--batch-size 512 --threads {threads}" + removal(recipe) + extra
    paths = {"topics": place / "topics.json", "run": place / "flat.txt", "index": flat.folder}
    exact = commands.timed("pyserini.search.faiss", line, **paths)
    paths |= {"run": place / "hnsw.txt", "index": graph.folder}
    approximate = commands.timed("pyserini.search.faiss", line + " --ef-search {hits}", **paths)
    documents, queries = len(recipe.data.documents), len(recipe.data.queries)
    return {
        "flat": recipe.evaluation(
            "Pyserini, FAISS flat",
            read_run(place / "flat.txt"),
            documents_per_second=recipe.rate(flat),
            queries_per_second=queries / exact,
        ),
        "hnsw": recipe.evaluation(
            "Pyserini, FAISS HNSW",
            read_run(place / "hnsw.txt"),
            documents_per_second=documents / (flat.seconds + graph.seconds),
            queries_per_second=queries / approximate,
        ),
    }


def removal(recipe: Recipe) -> str:
    """Return the option by which a query does not find the document of its own id, if it is so."""
    return " --remove-query" if recipe.data.drops_same_id else ""


def bm25(commands: Commands, place: Path, texts: Path) -> Evaluation:
    """Index title and text as one field with Lucene, and search it with Pyserini's settings."""
    recipe = commands.recipe

    def build(folder: Path) -> None:
        line = "--collection JsonCollection --input {texts} --index {index} --threads {threads} "
        line += "--generator DefaultLuceneDocumentGenerator --storePositions --storeDocvectors"
        commands.run("pyserini.index.lucene", line, texts=texts, index=folder / "index")

    stage = recipe.stage("lucene", build)
    line = "--index {index} --topics {topics} --output {run} --bm25 --hits {hits} "
    line += "--batch-size 128 --threads {threads}" + removal(recipe)
    paths = {"topics": place / "topics.json", "run": place / "bm25.txt"}
    seconds = commands.timed("pyserini.search.lucene", line, index=stage.folder / "index", **paths)
    return recipe.evaluation(
        "Pyserini, BM25",
        read_run(place / "bm25.txt"),
        lexical=True,
        documents_per_second=recipe.rate(stage),
        queries_per_second=len(recipe.data.queries) / seconds,
    )


def fused(commands: Commands, place: Path) -> Evaluation:
    """Add up the scores of BM25 and the flat index, each scaled to 0 to 1 for every query."""
    line = "--runs {first} {second} --method normalize --output {run} --runtag fused"
    paths = {"first": place / "bm25.txt", "second": place / "flat.txt", "run": place / "fused.txt"}
    commands.run("pyserini.fusion", line, **paths)
    return commands.recipe.evaluation("Pyserini, BM25 + FAISS flat", read_run(paths["run"]))


def check_by_trec_eval(commands: Commands, place: Path, name: str, result: Evaluation) -> None:
    """Let trec_eval score a run as well, and say so if it comes to something else."""
    line = "-c -m ndcg_cut.10 -m recall.100,1000 {qrels} {run}"
    paths = {"qrels": place / "qrels.txt", "run": place / f"{name}.txt"}
    printed = commands.run("pyserini.eval.trec_eval", line, **paths)
    values = {
        fields[0]: float(fields[2]) for fields in map(str.split, printed.splitlines()) if fields
    }
    ours, theirs = result.metrics["nDCG@10"], values["ndcg_cut_10"]
    commands.say(f"trec_eval, {result.search}: nDCG@10 {theirs:.4f}")
    if abs(ours - theirs) > TOLERANCE:
        sys.stderr.write(
            f"{result.search}: nDCG@10 is {ours:.4f} here, {theirs:.4f} by trec_eval\n"
        )


def read_run(path: Path) -> Run:
    """Read a TREC run."""
    run: Run = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            query, _, document, _, value, _ = line.split()
            run.setdefault(query, {})[document] = float(value)
    return run


if __name__ == "__main__":
    run_recipe(index_and_search, "pyserini", recipe_parser(__doc__))
