"""Runs commands of Pyserini, one after the other, in one process with a real JVM.

Called with a folder that holds `model`, `beir`, `exported` and `lucene`; leaves indexes and runs
there, and what was seen on the way in `seen.json`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import effir_integrations.pyserini  # noqa: F401 - must start nothing

SEEN: dict[str, Any] = {
    "started by import": sorted({"jnius", "pyserini", "faiss"} & set(sys.modules))
}


def run(command: str, line: str) -> str:
    """Run the launcher of a command in this process and return what it printed."""
    module = (
        command if command.startswith("pyserini.") else f"effir_integrations.pyserini.{command}"
    )
    before, sys.argv = sys.argv, [command, *line.split()]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = before
    return printed.getvalue()


def raised(command: str, line: str) -> str:
    """Run a command that is to fail, and return how."""
    try:
        run(command, line)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def dense() -> None:
    encode = (
        "input --corpus beir/corpus.jsonl --fields title text {} output --embeddings {} encoder"
    )
    encode += " --encoder model --fields title text"
    run("encode", encode.format("", "flat --to-faiss"))
    # small chunks and an abbreviated dimension, spelled as in Pyserini's own pages
    run("encode", encode.format("", "vectors") + " --encoder-class effir --batch 7 --dim 32")
    for shard in (0, 1):
        place = f"shards/s{shard} --to-faiss"
        run("encode", encode.format(f"--shard-id {shard} --shard-num 2", place) + " --fp16")
    run("index.merge_faiss_indexes", "--prefix shards/s --shard-num 2")
    run("index.faiss", "--input vectors --output from/vectors --threads 1")
    Path("from/unknown").mkdir()
    for name in ("index", "docid"):
        Path("from/unknown", name).write_bytes(Path("flat", name).read_bytes())
    run("index.faiss", "--input flat --output from/again --threads 1")
    run("index.faiss", "--input from/unknown --output from/again --threads 1")
    run("index.faiss", "--input flat --output from/hnsw --hnsw --M 16 --efC 40 --threads 1")
    search = "--encoder model --topics {} --output runs/{} --hits 50 --index {} --remove-query"
    run("search.faiss", search.format("beir/queries.jsonl", "flat.txt", "flat"))
    run(
        "search.faiss",
        search.format("topics.tsv", "hnsw.txt", "from/hnsw") + " --batch-size 4 --ef-search 64",
    )
    run("search.faiss", search.format("topics.tsv", "vectors.txt", "from/vectors"))
    run("search.faiss", search.format("topics.tsv", "shards.txt", "shards/sfull"))
    prefixed = search.format("topics.tsv", "prefix.txt", "flat --query-prefix w7")
    run("search.faiss", prefixed + " --max-length 4 --prf-depth 0")
    stock = "--encoded-queries exported/queries --topics exported/topics.json --hits 50 "
    run(
        "pyserini.search.faiss",
        stock + "--index exported --output runs/exported.txt --batch-size 9",
    )
    run("search.faiss", stock + "--index exported --output runs/launched.txt")


def lexical_and_both() -> None:
    run("index.lucene", "--collection JsonCollection --input lucene --index bm25 --threads 1 "
        "--generator DefaultLuceneDocumentGenerator")  # fmt: skip
    run("search.lucene", "--index bm25 --topics beir/queries.jsonl --output runs/bm25.txt --bm25")
    run("search.hybrid", "dense --index flat --encoder model sparse --index bm25 fusion --alpha .3 "
        "--hits 50 run --topics beir/queries.jsonl --output runs/hybrid.txt --hits 10")  # fmt: skip
    run("fusion", "--runs runs/flat.txt runs/bm25.txt --method normalize --output fused/run.txt")
    metrics = "-c -m ndcg_cut.10 -m recall.100 exported/qrels.txt runs/{}.txt"
    SEEN["trec_eval"] = {x: run("eval.trec_eval", metrics.format(x)) for x in ("flat", "bm25")}


def failures() -> None:
    search = "--encoder model --output runs/none.txt --index {} --topics {}"
    del os.environ["HF_HUB_OFFLINE"]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        SEEN["unknown index"] = raised("search.faiss", search.format("nowhere", "topics.tsv"))
    SEEN["errors"] = errors.getvalue()
    os.environ["HF_HUB_OFFLINE"] = "1"
    Path("unread").mkdir()
    Path("unread/docs.jsonl").write_text('{"_id": "a", "text": "w1"}\n')
    line = "--collection JsonCollection --input unread --index none --threads 1 "
    line += "--generator DefaultLuceneDocumentGenerator"
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        SEEN["no document"] = raised("index.lucene", line)
    SEEN["no document says"] = errors.getvalue()
    SEEN["bad option"] = raised("search.faiss", search.format("flat", "topics.tsv") + " --hitz x")
    corpus = "input --corpus {} output --embeddings flat --to-faiss encoder --encoder model"
    bad = raised("encode", corpus.format("beir/corpus.jsonl") + " --no-such-option")
    SEEN["index is still there"] = Path("flat/index").is_file() and "SystemExit" in bad
    Path("broken.jsonl").write_text('{"id": "a"}\n')
    again = corpus.format("broken.jsonl").replace("flat", "half")
    SEEN["broken corpus"] = raised("encode", again)
    Path("long.jsonl").write_text('{"id": "a", "text": "w1"}\n{"id": "b", "text": "w2"}\n')
    SEEN["interrupted"] = interrupted(corpus.format("long.jsonl").replace("flat", "half"))
    SEEN["half an index"] = sorted(path.name for path in Path("half").glob("*"))


def interrupted(line: str) -> str:
    """Encode with a model that fails on the second chunk."""
    from effir_integrations.adapters.pyserini.encoders import EffirDocumentEncoder

    whole = EffirDocumentEncoder.encode

    def encode(self: Any, texts: list[str], **options: Any) -> Any:
        if texts == ["w2"]:
            raise KeyboardInterrupt
        return whole(self, texts, **options)

    setattr(EffirDocumentEncoder, "encode", encode)
    try:
        run("encode", line + " --batch-size 1")
    except KeyboardInterrupt:
        return "KeyboardInterrupt"
    finally:
        setattr(EffirDocumentEncoder, "encode", whole)
    return "nothing was raised"


def in_python() -> None:
    from effir_integrations.pyserini import EffirQueryEncoder, register

    register()
    register()
    from pyserini.encode import document_encoder_class_map, query_encoder_class_map
    from pyserini.search.faiss import FaissSearcher

    SEEN["first classes"] = [
        next(iter(x)) for x in (document_encoder_class_map, query_encoder_class_map)
    ]
    searcher = FaissSearcher("flat", EffirQueryEncoder("model"))
    hits = searcher.search("w1 w2 w3", k=3)
    batch = searcher.batch_search([{"query": "w1 w2 w3", "qid": "x"}], ["x"], k=3)["x"]
    SEEN["python"] = [[hit.docid for hit in found] for found in (hits, batch)]
    SEEN["other model"] = ""
    try:
        FaissSearcher("flat", EffirQueryEncoder("bare"))
    except ValueError as error:
        SEEN["other model"] = str(error)
    allowed = FaissSearcher("flat", EffirQueryEncoder("bare", allow_other_model=True))
    SEEN["other model, allowed"] = len(allowed.search("w1 w2 w3", k=3))
    SEEN["key left behind"] = "OPENAI_API_KEY" in os.environ
    SEEN["arguments"] = sys.argv[1:]


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    dense()
    lexical_and_both()
    failures()
    in_python()
    Path("seen.json").write_text(json.dumps(SEEN))
