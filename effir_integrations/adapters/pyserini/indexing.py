"""Check and complete the command lines that make indexes."""

from __future__ import annotations

import importlib
import json
import logging
from dataclasses import replace
from pathlib import Path

from ...data.corpus import corpus_pairs
from ...data.jsonl import read_jsonl
from ...encoder.inference import WINDOW
from ...extras import import_extra
from .commands import (
    Command,
    Request,
    changed,
    is_ours,
    nothing,
    number,
    opened,
    refuse,
    required,
    settle,
)
from .encoders import EffirDocumentEncoder
from .options import Part, join, split
from .record import IndexRecord, check_index, count_lines, record_path, vector_dimension
from .topics import refuse_missing

logger = logging.getLogger(__name__)


def encode(request: Request) -> Command:
    """Prepare `pyserini.encode`: the dimension, the size of chunks and the longest text."""
    parts = split(request.arguments, ("input", "output", "encoder"), request.module)
    source, output, model = parts["input"], parts["output"], parts["encoder"]
    refuse_missing(source.value("--corpus"), "--corpus", "give a .jsonl file, or a folder of them")
    folder = Path(required(output, "--embeddings"))
    to_faiss = output.has("--to-faiss")
    if not is_ours(model):
        return Command(arguments=tuple(join(parts)), finish=lambda: _save(None, folder))
    refuse(model)
    _check_fields(source.values("--fields") or ["text"], model.values("--fields") or ["text"])
    if to_faiss:
        import_extra("faiss", "pyserini")
    lazy = opened(model, request)
    settle(model, "--dimension", lazy.dimension, "the model gives vectors of")
    for option, value in (("--batch-size", WINDOW), ("--max-length", lazy.limit)):
        if not model.has(option) and value is not None:
            model.set(option, value)
    length = number(model, "--max-length")
    lists = folder / ("docid" if to_faiss else "embeddings.jsonl")
    vectors = folder / "index" if to_faiss else lists
    before = changed(lists)

    def finish() -> None:
        IndexRecord.of(lazy, count_lines(lists), length).save(folder)

    def abandon() -> None:
        # Pyserini writes an index of what it has come to even if it fails
        if changed(lists) != before:
            for path in (vectors, lists, record_path(folder)):
                path.unlink(missing_ok=True)

    return Command(
        arguments=tuple(join(parts)),
        document=EffirDocumentEncoder(lazy, show_progress=True),
        written=vectors,
        finish=finish,
        abandon=abandon,
    )


def _check_fields(read: list[str], encoded: list[str]) -> None:
    """Refuse fields that cannot be encoded, and say which are not."""
    if "text" not in read:
        raise ValueError(
            f"input --fields {' '.join(read)}: Pyserini needs the field 'text' among them; say "
            "which part of the documents it is, such as --fields title text"
        )
    other = [field for field in encoded if field not in ("title", "text")]
    if other:
        raise ValueError(
            f"encoder --fields {' '.join(encoded)}: effir encodes title and text, not "
            f"{', '.join(other)}; leave it out, or put it into text"
        )
    absent = [field for field in encoded if field not in read]
    if absent:
        raise ValueError(
            f"encoder --fields {' '.join(encoded)}: input reads {' '.join(read)} only; give both "
            "the same --fields"
        )
    if "title" in read and "title" not in encoded:
        logger.warning("titles are read and not encoded; add --fields title text after encoder")


def index_faiss(request: Request) -> Command:
    """Prepare `pyserini.index.faiss`: the dimension, and what is known about the vectors."""
    part = Part("", request.arguments)
    source = refuse_missing(part.value("--input"), "--input", "give the folder of vectors")
    output = Path(required(part, "--output"))
    if source is None:
        raise FileNotFoundError(f"--input {part.value('--input')}: there is no such folder")
    import_extra("faiss", "pyserini")
    settle(part, "--dim", vector_dimension(source), f"{source} holds vectors of")
    record = IndexRecord.load(source)
    # Pyserini makes the folder itself, but not those around it
    output.parent.mkdir(parents=True, exist_ok=True)
    return Command(
        arguments=tuple(part.tokens),
        written=output / "index",
        finish=lambda: _save(record, output),
    )


def merge_indexes(request: Request) -> Command:
    """Prepare `pyserini.index.merge_faiss_indexes`, of shards that one model encoded."""
    part = Part("", request.arguments)
    prefix = required(part, "--prefix")
    shards = [Path(f"{prefix}{number}") for number in range(number(part, "--shard-num") or 1)]
    for shard in shards:
        check_index(shard, "--prefix")
    sizes = {vector_dimension(shard) for shard in shards}
    records = [record for record in map(IndexRecord.load, shards) if record is not None]
    if len(sizes) > 1 or len({record.fingerprint for record in records}) > 1:
        raise ValueError(
            f"--prefix {prefix}: the shards are of different models (dimensions "
            f"{', '.join(map(str, sorted(sizes)))}); encode all by one"
        )
    import_extra("faiss", "pyserini")
    settle(part, "--dimension", sizes.pop(), "the shards hold vectors of")
    whole = Path(f"{prefix}full")

    def finish() -> None:
        total = sum(record.documents for record in records)
        known = len(records) == len(shards)
        _save(replace(records[0], documents=total) if known else None, whole)

    return Command(arguments=tuple(part.tokens), written=whole / "index", finish=finish)


def _save(record: IndexRecord | None, folder: Path) -> None:
    """Write what is known about new vectors, or remove what was known about those before."""
    if record is None:
        record_path(folder).unlink(missing_ok=True)
    else:
        record.save(folder)


def index_lucene(request: Request) -> Command:
    """Prepare `pyserini.index.lucene`, which ends well also where it found nothing to index."""
    part = Part("", request.arguments)
    if part.has("--input"):
        folder = Path(required(part, "--input"))
        if not folder.is_dir():
            raise FileNotFoundError(f"--input {folder}: give a folder with the files to index")
        collection = part.value("--collection") or ""
        if collection.startswith("Beir") and (folder / "queries.jsonl").is_file():
            raise ValueError(
                f"--input {folder}: Pyserini indexes every file there, queries.jsonl as well; give "
                "a folder that holds corpus.jsonl alone"
            )
        if collection == "JsonCollection" and _is_of_beir(folder / "corpus.jsonl"):
            part.set("--input", _as_json_collection(folder / "corpus.jsonl", request.scratch))
    index = part.value("--index")
    return Command(
        arguments=tuple(part.tokens),
        finish=nothing if index is None else lambda: _check_not_empty(Path(index)),
    )


def _is_of_beir(corpus: Path) -> bool:
    """Say whether a corpus is there and lacks the keys that Pyserini's JsonCollection reads."""
    if not corpus.is_file():
        return False
    _, first = next(read_jsonl(corpus), (0, {}))
    return not {"id", "contents"} <= first.keys()


def _as_json_collection(corpus: Path, scratch: Path) -> Path:
    """Copy the corpus of a BEIR folder with the keys that Pyserini's JsonCollection reads."""
    folder = scratch / "collection"
    folder.mkdir()
    with (folder / corpus.name).open("w", encoding="utf-8") as stream:
        for identifier, text in corpus_pairs(corpus):
            stream.write(json.dumps({"id": identifier, "contents": text}) + "\n")
    return folder


def _check_not_empty(index: Path) -> None:
    """Refuse an index without documents: Pyserini skips what it cannot read.

    Raises:
        ValueError: It holds none.
    """
    readers = importlib.import_module("pyserini.index.lucene")
    if not readers.LuceneIndexReader(str(index)).reader.numDocs():
        raise ValueError(
            f"--index {index} holds no document: none was found in --input; the kind named by "
            "--collection must be that of its files (JsonCollection: lines with id and contents)"
        )
