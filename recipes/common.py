"""What the recipes share: their command line, their folder, and the table at the end."""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from effir_integrations import errors
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.cli import console
from effir_integrations.data.beir import DROP_SAME_ID, RetrievalData, load_beir
from effir_integrations.demo.docstrings import build_docstring_corpus
from effir_integrations.encoder.mini import MINI
from effir_integrations.encoder.precision import PRECISIONS
from effir_integrations.evaluation.evaluate import Evaluation
from effir_integrations.evaluation.models import (
    check_model,
    model_bytes,
    non_embedding_parameters,
)
from effir_integrations.evaluation.retrieval import Run, best, check_run_ids, score_run, write_run
from effir_integrations.evaluation.tables import search_table
from effir_integrations.files import new_folder, read_json, write_json
from effir_integrations.progress import progress_bar

DEPTH = 100
"""Documents a query in a run; ask for one more, since a query's own document may be left out."""
_STAGE_FILE = "stage.json"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Something that was made once, and is there for the next run."""

    folder: Path
    """Where it lies."""
    seconds: float
    """How long it took to make, then."""


class Recipe:
    """One run of a recipe: the model, the data, and a folder for what is made of them."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        if getattr(options, "question", None) and options.json:
            raise ValueError(
                "--question prints a prompt, and --json JSON alone; leave one of them out"
            )
        self.options = options
        self.show_progress = not options.quiet
        self.model = MINI if options.model is None else options.model
        check_model(self.model, "auto", None)
        self.encoder = LazyEncoder(
            self.model,
            device=options.device,
            precision=options.precision,
            max_length=options.max_length,
        )
        self.data = self._load_data()
        check_run_ids([*self.data.queries, *self.data.documents])
        place = f"{Path(self.data.name).name}-{Path(self.model).name}"
        self.out = options.out or Path("effir-recipes") / name / place
        self.out.mkdir(parents=True, exist_ok=True)

    def _load_data(self) -> RetrievalData:
        source = self.options.data
        if source is None:
            source = Path("effir-recipes") / "docstrings"
            if not source.is_dir():
                build_docstring_corpus(source, show_progress=self.show_progress)
        return load_beir(
            source,
            self.options.split,
            self.options.drop_same_id,
            show_progress=self.show_progress,
        )

    @cached_property
    def documents_hash(self) -> str:
        """SHA-256 over ids and texts of all documents, in their order."""
        return _content_hash(self.data.documents)

    def stage(
        self, name: str, build: Callable[[Path], None], settings: dict[str, Any] | None = None
    ) -> Stage:
        """Make something of the documents once; later runs with the same settings find it.

        Args:
            name: Of the folder that it lies in.
            build: Writes everything into the folder that it is given.
            settings: What else it depends on, besides model, documents and the recipe's options.

        Raises:
            FileExistsError: The folder holds something else, and `--force` was not given.
        """
        folder = self.out / name
        identity = json.loads(
            json.dumps(
                {
                    "model": self.encoder.fingerprint,
                    "documents": self.documents_hash,
                    "precision": self.options.precision,
                    "max_length": self.options.max_length,
                    **(settings or {}),
                }
            )
        )
        record = folder / _STAGE_FILE
        ours = record.is_file()
        if ours and not self.options.force:
            found = read_json(record, "what an earlier run of this recipe made")
            if found["identity"] == identity:
                return Stage(folder=folder, seconds=found["seconds"])
        with new_folder(folder, force=ours or self.options.force) as unfinished:
            start = time.perf_counter()
            build(unfinished)
            seconds = time.perf_counter() - start
            write_json(unfinished / _STAGE_FILE, {"identity": identity, "seconds": seconds})
        return Stage(folder=folder, seconds=seconds)

    def rate(self, stage: Stage) -> float:
        """Return documents a second of a stage that went over all of them."""
        return len(self.data.documents) / stage.seconds

    def search_each(self, find: Callable[[str], dict[str, float]]) -> tuple[Run, float]:
        """Search one query after the other.

        Args:
            find: Text of a query -> document id -> score.

        Returns:
            The run, and the median milliseconds of a query.
        """
        run, seconds = {}, []
        queries = progress_bar(
            self.data.queries.items(), desc="Searching", unit="query", shown=self.show_progress
        )
        for query, text in queries:
            start = time.perf_counter()
            run[query] = find(text)
            seconds.append(time.perf_counter() - start)
        return run, 1000 * statistics.median(seconds)

    def evaluation(
        self,
        search: str,
        run: Run,
        *,
        lexical: bool = False,
        documents_per_second: float | None = None,
        queries_per_second: float | None = None,
        query_latency_ms: float | None = None,
    ) -> Evaluation:
        """Write a run and score it.

        Args:
            search: What searched, such as "LlamaIndex, FAISS flat"; names the run as well.
            run: Query id -> document id -> score; where the data drop documents of the query's own
                id, that is done here.
            lexical: No encoder had a part in it, as in BM25.
            documents_per_second: Of indexing, encoding included.
            queries_per_second: Of searching in batches, encoding included.
            query_latency_ms: Median of one query at a time, encoding and searching.
        """
        drops = self.data.drops_same_id
        clean = {
            query: best(query, run.get(query, {}), DEPTH, drop_same_id=drops)
            for query in self.data.queries
        }
        tag = "-".join(search.lower().replace(",", " ").replace("/", " ").split())
        write_run(clean, self.out / "runs" / f"{tag}.trec", tag=tag)
        facts: dict[str, Any] = _NO_ENCODER if lexical else self._encoder_facts
        return Evaluation(
            model="BM25" if lexical else self.model,
            data=self.data.name,
            split=self.data.split,
            metrics=score_run(self.data.qrels, clean),
            documents=len(self.data.documents),
            queries=len(self.data.queries),
            documents_per_second=documents_per_second,
            queries_per_second=queries_per_second,
            query_latency_ms=query_latency_ms,
            batch_size=None,
            search=search,
            drops_same_id=drops,
            **facts,
        )

    @cached_property
    def _encoder_facts(self) -> dict[str, Any]:
        model = self.encoder.encoder
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "bytes": model_bytes(model, self.model),
            "max_length": self.encoder.limit,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "device": str(model.device),
            "non_embedding_parameters": non_embedding_parameters(model),
        }


_NO_ENCODER = {
    "parameters": None, "bytes": None, "max_length": None, "dtype": "none", "device": "cpu",
    "non_embedding_parameters": None,
}  # fmt: skip


def _content_hash(texts: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for pair in texts.items():
        digest.update(json.dumps(pair).encode() + b"\n")
    return digest.hexdigest()


def recipe_parser(description: str, *, several_models: bool = False) -> argparse.ArgumentParser:
    """Return a parser of the options that all recipes take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--model",
        help=f"model folder or hub name; default: {MINI}, which comes with the package",
        nargs="+" if several_models else None,
    )
    add("--data", help="BEIR folder or hub name; default: docstrings of Python's library")
    add("--split", default="test", help="which qrels/SPLIT.tsv to use (default: %(default)s)")
    add(
        "--drop-same-id",
        choices=DROP_SAME_ID,
        default="auto",
        help="leave the document of a query's own id out, as ArguAna and Quora need; auto does so "
        "unless such a document is judged relevant (default: %(default)s)",
    )
    add("--out", type=Path, help="folder for index and runs; default: effir-recipes/RECIPE/...")
    add("--max-length", type=_positive, help="tokens a text is cut to; default: the model's limit")
    add("--precision", choices=PRECISIONS, help="default: the dtype of the checkpoint")
    add("--device", help="cpu, cuda, cuda:1, mps; default: an accelerator where there is one")
    add("--force", action="store_true", help="encode again, over what earlier runs made")
    add("--quiet", action="store_true", help="no progress bars")
    add("--json", action="store_true", help="print the result as JSON; bars stay on stderr")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


def run_recipe(
    main: Callable[[Recipe], Sequence[Evaluation]],
    name: str,
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
) -> None:
    """Run a recipe from its command line, and print a table, or JSON with the keys of `evaluate`.

    Args:
        main: Returns the evaluation of its main search, then those of others.
        name: Of the recipe, for its folder.
        parser: As of `recipe_parser`, with what the recipe adds.
        arguments: None takes those of the process.

    Raises:
        SystemExit: Something went wrong, which one line on standard error says.
    """
    options = parser.parse_args(arguments)
    with errors.plain_errors(options.debug):
        errors.quiet_libraries()
        results = list(main(Recipe(name, options)))
        if options.json:
            first, *others = [result.to_json() for result in results]
            console.print_json({**first, "other_searches": others} if others else first)
        else:
            console.show(search_table(results), as_json=False, quiet=False)
