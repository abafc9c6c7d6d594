"""Check and complete the command lines that search and evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...data.beir import read_qrels
from ...files import new_file
from .commands import Command, Request, is_ours, number, opened, refuse, required
from .encoders import EffirQueryEncoder
from .options import Part, join, split
from .record import OTHER_MODEL, IndexRecord, check_index, check_same_model, vector_dimension
from .topics import refuse_missing, topics_with_string_ids, write_qrels

_TOPICS = 'give a file, such as a .json one: {"QUERY ID": {"title": "TEXT"}, ...}'
_QRELS = "a file of lines: QUERY 0 DOCUMENT RELEVANCE, or the qrels/SPLIT.tsv of a BEIR folder"
_INDEX = "give the folder of an index"
_COLUMNS = ("query", "Q0", "document", "rank", "score", "tag")
_LETTER = "x"


def search_faiss(request: Request) -> Command:
    """Prepare `pyserini.search.faiss`: topics, and an encoder that fits the index."""
    part = Part("", request.arguments)
    given = _with_topics(part, request)
    allowed = part.take(OTHER_MODEL)
    query = _query_encoder(part, request, allowed)
    return replace(given, arguments=tuple(part.tokens), query=query)


def search_hybrid(request: Request) -> Command:
    """Prepare `pyserini.search.hybrid`, as `search_faiss`."""
    parts = split(request.arguments, ("dense", "sparse", "fusion", "run"), request.module)
    # a list, so that every part loses the option
    allowed = any([part.take(OTHER_MODEL) for part in parts.values()])
    given = _with_topics(parts["run"], request)
    refuse_missing(parts["sparse"].value("--index"), "sparse --index", _INDEX)
    query = _query_encoder(parts["dense"], request, allowed)
    return replace(given, arguments=tuple(join(parts)), query=query)


def search_lucene(request: Request) -> Command:
    """Prepare `pyserini.search.lucene`: topics and index."""
    part = Part("", request.arguments)
    refuse_missing(part.value("--index"), "--index", _INDEX)
    given = _with_topics(part, request)
    return replace(given, arguments=tuple(part.tokens))


def _with_topics(part: Part, request: Request) -> Command:
    """Look at topics and output of a search, and let it read a copy of the topics if need be."""
    output = Path(required(part, "--output"))
    path = refuse_missing(part.value("--topics"), "--topics", _TOPICS)
    if path is not None and part.value("--topics-format") in (None, "default"):
        part.set("--topics", topics_with_string_ids(path, request.scratch))
    return Command(arguments=(), written=output)


def _query_encoder(part: Part, request: Request, allowed: bool) -> EffirQueryEncoder | None:
    """Return the encoder of a dense search, if it is ours, after a look at the index."""
    index = refuse_missing(part.value("--index"), "--index", _INDEX)
    if index is not None:
        check_index(index)
    if not part.has("--encoder"):
        _check_encoded_queries(part, index, allowed)
        return None
    if not is_ours(part):
        return None
    refuse(part)
    lazy = opened(part, request)
    prefix = part.values("--query-prefix")
    query = EffirQueryEncoder(
        lazy,
        tokenizer_name=part.value("--tokenizer"),
        prefix=prefix[0] if prefix else None,
        max_length=number(part, "--max-length"),
        allow_other_model=allowed,
    )
    if index is not None:
        query.check_index(index)
        found = vector_dimension(index)
        if found != lazy.dimension and not part.has("--pca-model"):
            raise ValueError(
                f"--index {index} holds vectors of {found} dimensions, {lazy.name} gives "
                f"{lazy.dimension}; search with the model that encoded the documents"
            )
    return query


def _check_encoded_queries(part: Part, index: Path | None, allowed: bool) -> None:
    advice = "give --encoder MODEL, or --encoded-queries FOLDER"
    folder = refuse_missing(part.value("--encoded-queries"), "--encoded-queries", advice)
    record = None if folder is None else IndexRecord.load(folder)
    if record is not None and index is not None:
        check_same_model(index, {record.fingerprint}, record.model, allowed=allowed)


def fusion(request: Request) -> Command:
    """Prepare `pyserini.fusion`, which makes numbers of query ids that look like numbers.

    It is given copies of the runs in which no id does, and what it writes is turned back.
    """
    part = Part("", request.arguments)
    output = Path(required(part, "--output"))
    copies = []
    for place, run in enumerate(part.values("--runs") or []):
        if not Path(run).is_file():
            raise FileNotFoundError(f"--runs {run}: there is no such run; give files of runs")
        copies.append(request.scratch / f"run{place}.txt")
        _rewrite(Path(run), copies[-1], lambda identifier: f"{_LETTER}{identifier}")
    fused = request.scratch / "fused.txt"
    part.set("--output", fused)
    part.set("--runs", *copies)
    return Command(
        arguments=tuple(part.tokens),
        written=fused,
        finish=lambda: _rewrite(fused, output, lambda identifier: identifier.removeprefix(_LETTER)),
    )


def _rewrite(run: Path, out: Path, renamed: Callable[[str], str]) -> None:
    """Copy a TREC run with other ids of queries and documents."""
    with run.open(encoding="utf-8") as lines, new_file(out) as unfinished:
        with unfinished.open("w", encoding="utf-8", newline="\n") as copy:
            for place, line in enumerate(lines, start=1):
                fields = line.split()
                if len(fields) != len(_COLUMNS):
                    raise ValueError(
                        f"{run} line {place}: {line.strip()[:60]!r} has {len(fields)} columns; a "
                        f"TREC run has {', '.join(_COLUMNS)}"
                    )
                fields[0], fields[2] = renamed(fields[0]), renamed(fields[2])
                copy.write(" ".join(fields) + "\n")


def trec_eval(request: Request) -> Command:
    """Prepare `pyserini.eval.trec_eval`: judgements, those of BEIR as well, and run are there."""
    if len(request.arguments) < 2:
        return Command(arguments=request.arguments)
    *options, qrels, run = request.arguments
    path = refuse_missing(qrels, "qrels", f"give {_QRELS}")
    if not Path(run).is_file():
        raise FileNotFoundError(f"run {run}: there is no such file; give a run in TREC format")
    if path is not None and path.suffix == ".tsv":
        qrels = str(request.scratch / "qrels.txt")
        write_qrels(read_qrels(path), Path(qrels))
    return Command(arguments=(*options, qrels, run))
