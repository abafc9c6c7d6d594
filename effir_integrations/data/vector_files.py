"""The files that hold ids and vectors: .npy with a list of ids, .parquet, .jsonl."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import import_extra
from .corpus import parquet_module

if TYPE_CHECKING:
    Block = tuple[list[str], np.ndarray]

ENDINGS = (".npy", ".parquet", ".jsonl")
NPY_HEADER_BYTES = 128
"""Of any `npy_header`."""
DTYPE = np.dtype("<f4")


def check_ending(out: Path) -> None:
    """Refuse a file that is none of `ENDINGS`, and Parquet where pyarrow is missing.

    Raises:
        ValueError: The name ends otherwise.
        ImportError: It is Parquet and there is no pyarrow.
    """
    if out.suffix not in ENDINGS:
        raise ValueError(
            f"{out}: vectors are written to {', '.join(ENDINGS)}; choose one of these endings"
        )
    if out.suffix == ".parquet":
        parquet_module()


def ids_path(out: Path) -> Path | None:
    """Return where the ids of a .npy file lie, one a line; the other kinds hold theirs."""
    return out.with_suffix(".ids.txt") if out.suffix == ".npy" else None


def check_id(identifier: str, where: str, *, line_break: str | None = None) -> None:
    """Refuse an id that a file cannot hold.

    Args:
        identifier: As it will be written.
        where: Of what it is, for the error.
        line_break: What to do if it holds a line break, where ids are lines of a text file; None
            where they are not, so that it may hold one.

    Raises:
        ValueError: It is empty or no valid Unicode, or holds a line break that it may not.
    """
    if not identifier:
        raise ValueError(f"{where}: the id is empty; give every text an id")
    try:
        identifier.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: the id {identifier!r} holds half a surrogate pair, which no file can; "
            "give it another id"
        ) from error
    if line_break and identifier.splitlines() != [identifier]:
        raise ValueError(
            f"{where}: the id {identifier!r} holds a line break, and ids are written into a text "
            f"file, one a line; {line_break}"
        )


def npy_header(rows: int, dimension: int) -> bytes:
    """Return the header of a .npy file of float32, of the same length whatever the sizes."""
    stream = io.BytesIO()
    # NumPy leaves room for the rows to grow
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    )
    return stream.getvalue()


def write_ids(path: Path, blocks: Iterable[Sequence[str]]) -> None:
    """Write ids, one a line, in UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for ids in blocks:
            stream.writelines(f"{identifier}\n" for identifier in ids)


def write_jsonl(path: Path, blocks: Iterable[Block], dimension: int) -> None:
    """Write `{"docid": ..., "vector": [...]}` a line, as Anserini's JsonDenseVectorCollection.

    Nine significant digits give every float32 back exactly.
    """
    numbers = ", ".join(["%.9g"] * dimension)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for ids, vectors in blocks:
            for identifier, vector in zip(ids, vectors, strict=True):
                name = json.dumps(identifier, ensure_ascii=False)
                values = numbers % tuple(vector.tolist())
                stream.write(f'{{"docid": {name}, "vector": [{values}]}}\n')


def write_parquet(path: Path, blocks: Iterable[Block], dimension: int) -> None:
    """Write columns docid (string) and vector (list of float32), a row group for each block.

    Anserini's ParquetDenseVectorCollection reads these.
    """
    parquet = parquet_module()
    # a dictionary of values that never repeat would only take memory
    with parquet.ParquetWriter(path, parquet_schema(), use_dictionary=False) as writer:
        for ids, vectors in blocks:
            writer.write_table(parquet_table(ids, vectors), row_group_size=len(ids))


def parquet_schema() -> Any:
    """Return the columns docid (string) and vector (list of float32)."""
    pyarrow = import_extra("pyarrow", "eval")
    return pyarrow.schema(
        [("docid", pyarrow.string()), ("vector", pyarrow.list_(pyarrow.float32()))]
    )


def parquet_table(ids: Sequence[str], vectors: np.ndarray) -> Any:
    """Return ids and their vectors, (ids, dimension) float32, as a table of `parquet_schema`."""
    pyarrow = import_extra("pyarrow", "eval")
    rows, dimension = vectors.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * dimension
    lists = pyarrow.ListArray.from_arrays(offsets, vectors.reshape(-1))
    return pyarrow.table([pyarrow.array(ids, pyarrow.string()), lists], schema=parquet_schema())


WRITERS: dict[str, Callable[[Path, Iterator[Block], int], None]] = {
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
}
"""Of the kinds that are written from blocks of ids and vectors once all are there."""
BYTES_A_NUMBER = {".npy": 0, ".parquet": 4, ".jsonl": 14}
"""About what these take of the disk besides the raw vectors, of which .npy is made."""
