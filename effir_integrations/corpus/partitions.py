"""Cut a corpus into parts that several machines read on their own, anywhere fsspec reaches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any

from ..data.records import ID_KEYS, TEXT_KEYS, identified_text
from ..extras import import_extra

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIX = ".parquet"
_SUFFIXES = (*JSON_SUFFIXES, PARQUET_SUFFIX)
_WHOLE_CORPUS = "corpus.jsonl"
_READ_BYTES = 1 << 20
_EXCERPT_LENGTH = 60
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """One file of a corpus."""

    path: str
    """Absolute, with its protocol unless local, so that it is the same on every machine."""
    size: int
    """In bytes."""

    @property
    def is_parquet(self) -> bool:
        """Whether it holds columns; else it holds one JSON object a line."""
        return self.path.endswith(PARQUET_SUFFIX)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of one file: what is read, encoded and written as a whole."""

    number: int
    """Counted over the corpus from 0."""
    path: str
    """As in `CorpusFile`."""
    start: int
    """The first byte of JSON Lines, the first row of Parquet."""
    stop: int
    """One past the last; a line belongs to the part that it starts in."""


def filesystem(path: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path and the path in it, absolute."""
    fsspec = import_extra("fsspec", "ray")
    system, inner = fsspec.core.url_to_fs(path)
    return system, inner


def absolute(path: str) -> str:
    """Return a path, with its protocol unless local, that holds in every working directory."""
    return _address(*filesystem(path))


def _address(system: Any, inner: str) -> str:
    return inner if "file" in system.protocol else system.unstrip_protocol(inner)


def corpus_files(corpus: str, *, leave_out: str | None = None) -> list[CorpusFile]:
    """List the files of a corpus.

    Of a folder that holds `corpus.jsonl`, as those of BEIR do, that file alone is taken; of any
    other all JSON Lines or all Parquet files, in folders within it as well, but for names that
    start with a dot or an underscore.

    Args:
        corpus: A file, a folder, or several of them joined by commas; local or s3://, gs://, hf://.
        leave_out: A folder, as of `absolute`, that is not part of the corpus though it lie in it.

    Raises:
        FileNotFoundError: There is nothing, or nothing of a known kind.
        ValueError: A file is of another kind or named twice, or a folder holds both kinds.
    """
    found: dict[str, CorpusFile] = {}
    for name in corpus.split(","):
        for file in _files_at(name.strip(), leave_out):
            if file.path in found:
                raise ValueError(f"{file.path} is named twice in {corpus!r}; name each file once")
            found[file.path] = file
    return list(found.values())


def _files_at(name: str, leave_out: str | None) -> list[CorpusFile]:
    if not name:
        raise ValueError("a corpus without a name; give files or folders, joined by single commas")
    system, path = filesystem(name)
    system.invalidate_cache()
    if system.isfile(path):
        if not path.endswith(_SUFFIXES):
            raise ValueError(
                f"{name} is of no known kind; give a file that ends in {', '.join(_SUFFIXES)}, "
                "unpacked"
            )
        return [CorpusFile(path=_address(system, path), size=system.size(path))]
    if not system.isdir(path):
        raise FileNotFoundError(f"{name}: expected a corpus, nothing is there; check the path")
    whole = f"{path.rstrip('/')}/{_WHOLE_CORPUS}"
    if system.isfile(whole):
        return [CorpusFile(path=_address(system, whole), size=system.size(whole))]
    return _files_in(name, leave_out)


def _files_in(name: str, leave_out: str | None) -> list[CorpusFile]:
    system, folder = filesystem(name)
    found = [
        CorpusFile(path=_address(system, path), size=entry["size"])
        for path, entry in sorted(system.find(folder, detail=True).items())
        if path.endswith(_SUFFIXES) and not _hidden(path, folder)
    ]
    if leave_out is not None:
        found = [file for file in found if not file.path.startswith(leave_out.rstrip("/") + "/")]
    if not found:
        raise FileNotFoundError(f"{name} holds no file that ends in {', '.join(_SUFFIXES)}")
    if len({file.is_parquet for file in found}) > 1:
        raise ValueError(
            f"{name} holds JSON and Parquet files; name one kind, or the files, so that no text is "
            "encoded twice"
        )
    return found


def _hidden(path: str, folder: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(path[len(folder) :]).parts)


def plan_parts(files: list[CorpusFile], part_bytes: int) -> list[Part]:
    """Cut files into parts of about `part_bytes` of text, always in the same way.

    JSON Lines files are not opened; of Parquet files the footers are read.

    Raises:
        ValueError: A Parquet file cannot be read or lacks a column for ids or texts.
    """
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        steps = list(pool.map(lambda file: _length_and_step(file, part_bytes), files))
    stretches = [
        (file.path, start, min(start + step, length))
        for file, (length, step) in zip(files, steps, strict=True)
        for start in range(0, length, step)
    ]
    return [
        Part(number=number, path=path, start=start, stop=stop)
        for number, (path, start, stop) in enumerate(stretches)
    ]


def _length_and_step(file: CorpusFile, part_bytes: int) -> tuple[int, int]:
    if not file.is_parquet:
        return file.size, part_bytes
    parquet, stream = _open_parquet(file.path)
    with stream:
        metadata = parquet.metadata
        taken = _columns(parquet, file.path)
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        columns = [group.column(index) for group in groups for index in range(group.num_columns)]
        size = sum(
            column.total_uncompressed_size for column in columns if column.path_in_schema in taken
        )
        return metadata.num_rows, max(1, metadata.num_rows * part_bytes // max(size, 1))


def read_part(part: Part) -> tuple[list[str], list[str]]:
    """Return the ids and the texts of a part.

    Raises:
        ValueError: A line or row is no record with an id and a text; names file and line or row.
    """
    records = _rows(part) if part.path.endswith(PARQUET_SUFFIX) else _lines(part)
    pairs = list(records)
    return [identifier for identifier, _ in pairs], [text for _, text in pairs]


def _lines(part: Part) -> Iterator[tuple[str, str]]:
    content, offset = _whole_lines(part)
    position = offset
    for raw in content.split(b"\n"):
        if raw.strip():
            try:
                yield _identified(raw, part.path)
            except ValueError:
                # lines are counted only now: most parts start in the middle of a file
                yield _identified(raw, f"{part.path} line {_line_at(part.path, position)}")
        position += len(raw) + 1


def _whole_lines(part: Part) -> tuple[bytes, int]:
    """Return the lines that start in a part, and the byte that the first of them starts at."""
    system, path = filesystem(part.path)
    # one byte before: a line starts at `start` only if the byte before ends another
    offset = max(part.start - 1, 0)
    with system.open(path, "rb") as stream:
        stream.seek(offset)
        content = stream.read(part.stop - offset)
        if part.start:
            _, newline, content = content.partition(b"\n")
            if not newline:
                return b"", part.start
            offset = part.stop - len(content)
        while content and not content.endswith(b"\n"):
            more = stream.read(_READ_BYTES)
            head, newline, _ = more.partition(b"\n")
            content += head + newline
            if not more:
                break
    return content, offset


def _identified(raw: bytes, where: str) -> tuple[str, str]:
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    # RecursionError: a line nested thousands deep is bad input as well
    except (ValueError, RecursionError) as error:
        text = raw[:_EXCERPT_LENGTH].decode("utf-8", "replace")
        raise ValueError(
            f"{where}: not JSON in UTF-8 ({error}): {text!r}; each line must be one JSON object"
        ) from error
    if not isinstance(record, dict):
        raise ValueError(
            f"{where}: a JSON {type(record).__name__}; each line must be one JSON object"
        )
    return _storable(*identified_text(record, where), where)


def _storable(identifier: str, text: str, where: str) -> tuple[str, str]:
    try:
        identifier.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}: the id {identifier!r} is not valid Unicode, so Parquet cannot hold it"
        ) from None
    return identifier, text


def _line_at(path: str, position: int) -> int:
    system, inner = filesystem(path)
    lines = 1
    with system.open(inner, "rb") as stream:
        while position > 0 and (block := stream.read(min(_READ_BYTES, position))):
            lines += block.count(b"\n")
            position -= len(block)
    return lines


def _rows(part: Part) -> Iterator[tuple[str, str]]:
    parquet, stream = _open_parquet(part.path)
    with stream:
        metadata = parquet.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        starts = [0, *accumulate(sizes)]
        groups = [
            group
            for group in range(len(sizes))
            if starts[group] < part.stop and starts[group + 1] > part.start
        ]
        row = starts[groups[0]]
        columns = _columns(parquet, part.path)
        for batch in parquet.iter_batches(row_groups=groups, columns=columns):
            kept = batch.slice(max(part.start - row, 0), max(part.stop - max(row, part.start), 0))
            for number, record in enumerate(kept.to_pylist(), start=max(row, part.start) + 1):
                where = f"{part.path} row {number}"
                yield _storable(*identified_text(record, where), where)
            row += batch.num_rows
            if row >= part.stop:
                return


def _open_parquet(path: str) -> tuple[Any, Any]:
    pyarrow = import_extra("pyarrow", "ray")
    parquet = import_extra("pyarrow.parquet", "ray")
    system, inner = filesystem(path)
    stream = system.open(inner, "rb")
    try:
        return parquet.ParquetFile(stream), stream
    except pyarrow.ArrowInvalid as error:
        stream.close()
        raise ValueError(f"{path} is no whole Parquet file ({error}); fetch it again") from error


def _columns(parquet: Any, path: str) -> list[str]:
    names = parquet.schema_arrow.names
    for keys, what in ((ID_KEYS, "ids"), (TEXT_KEYS, "texts")):
        if not set(keys) & set(names):
            raise ValueError(
                f"{path} has no column of {what} among {', '.join(names)}; name one of "
                f"{', '.join(keys)}"
            )
    return [name for name in names if name in {*ID_KEYS, *TEXT_KEYS, "title"}]
