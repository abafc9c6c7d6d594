"""Read the ids and texts of a corpus file as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..extras import import_extra
from .jsonl import check_text_file, read_jsonl
from .records import ID_KEYS, TEXT_KEYS, identified_text

ENDINGS = (".jsonl", ".parquet")
_BATCH = 1024


def corpus_file(source: str | Path, role: str) -> Path:
    """Return the file that holds the texts: of a BEIR folder the one of the role.

    Args:
        source: A file, or a folder with `corpus.jsonl` and `queries.jsonl`.
        role: `query` or `document`.
    """
    path = Path(source)
    if not path.is_dir():
        return path
    return path / ("queries.jsonl" if role == "query" else "corpus.jsonl")


def corpus_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the id and the text of each record; the path is checked at the call.

    Raises:
        FileNotFoundError: No file is at `path`.
        ImportError: It is a Parquet file and pyarrow is missing.
        ValueError: It is of another kind, or a record cannot be used; names its line or row.
    """
    if path.suffix == ".jsonl":
        return (identified_text(row, f"{path} line {line}") for line, row in read_jsonl(path))
    if path.suffix == ".parquet":
        return _parquet_pairs(path, _open_parquet(path))
    raise ValueError(
        f"{path}: a corpus ends in {' or '.join(ENDINGS)}; name such a file (of a BEIR folder its "
        "corpus.jsonl)"
    )


def count_texts(path: Path) -> int:
    """Return how many lines or rows a corpus has; blank lines count as well."""
    if path.suffix == ".parquet":
        return int(_open_parquet(path).metadata.num_rows)
    lines, last = 0, b""
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last not in (b"", b"\n"))


def parquet_module() -> Any:
    """Return `pyarrow.parquet`, or say how to install it."""
    import_extra("pyarrow", "eval")
    return import_extra("pyarrow.parquet", "eval")


def _open_parquet(path: Path) -> Any:
    parquet = parquet_module()
    check_text_file(path, "a Parquet file")
    try:
        return parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); write it again") from error


def _parquet_pairs(path: Path, file: Any) -> Iterator[tuple[str, str]]:
    wanted = (*ID_KEYS, *TEXT_KEYS, "title")
    columns = [name for name in file.schema_arrow.names if name in wanted]
    row = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
        for record in batch.to_pylist():
            row += 1
            yield identified_text(record, f"{path} row {row}")
