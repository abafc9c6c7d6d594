"""Parquet shards of vectors under fixed names, and the manifest that says what they are of."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.vector_files import parquet_schema, parquet_table
from ..extras import import_extra
from .partitions import absolute, filesystem

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "_effir.json"
"""Starts with an underscore, so that readers of a folder of Parquet files pass it by."""
_FORMAT = "effir vectors 1"
_UNFINISHED = "_unfinished"
_DIMENSION = b"effir.dimension"
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class ClusterOutput:
    """The folder that shards are written to."""

    folder: str
    """As of `absolute`."""
    shards: int
    """How many there will be."""

    @classmethod
    def open(cls, out: str, manifest: dict[str, Any], *, force: bool) -> ClusterOutput:
        """Begin in an empty folder, or resume in one that was begun alike.

        Args:
            out: Need not exist.
            manifest: What the shards depend on, of what JSON can hold; `parts` is their number.
            force: Remove what was begun otherwise.

        Raises:
            FileExistsError: The folder holds something else, or is a file.
            ValueError: It was begun with other settings, and `force` was not given.
        """
        output = cls(folder=absolute(out), shards=manifest["parts"])
        manifest = json.loads(json.dumps({"format": _FORMAT, **manifest}))
        system, folder = filesystem(output.folder)
        system.invalidate_cache()
        if system.isfile(folder):
            raise FileExistsError(f"{out} is a file; name a folder to write shards to")
        if system.isfile(f"{folder}/{MANIFEST}"):
            begun = json.loads(system.cat_file(f"{folder}/{MANIFEST}"))
            differences = _differences(begun, manifest)
            if differences and not force:
                raise ValueError(
                    f"{out} was begun otherwise: {'; '.join(differences)}; use the same, another "
                    "folder, or start over (--force)"
                )
            if not force:
                return output
            output._clear()
        elif system.isdir(folder) and system.find(folder):
            raise FileExistsError(
                f"{out} is not empty and holds no {MANIFEST}; name a new folder for the shards"
            )
        system.makedirs(folder, exist_ok=True)
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        with _appearing(output.folder, MANIFEST) as (_, path):
            system.pipe_file(path, text.encode())
        return output

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not there."""
        system, folder = filesystem(self.folder)
        system.invalidate_cache()
        names = {path.rpartition("/")[2] for path in system.ls(folder, detail=False)}
        return [number for number in range(self.shards) if shard_name(number) not in names]

    def finish(self) -> tuple[int, int]:
        """Remove what killed writers left, and return the number of texts and the dimension.

        Raises:
            RuntimeError: A shard is not there, or not of the dimension of the others.
        """
        missing = self.missing()
        if missing:
            raise RuntimeError(
                f"{self.folder} lacks {len(missing)} of {self.shards} shards, the first "
                f"{shard_name(missing[0])}; run the same again to make them"
            )
        system, folder = filesystem(self.folder)
        if system.isdir(f"{folder}/{_UNFINISHED}"):
            system.rm(f"{folder}/{_UNFINISHED}", recursive=True)
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            footers = list(pool.map(self._footer, range(self.shards)))
        dimensions = {dimension for texts, dimension in footers if texts}
        if len(dimensions) > 1:
            raise RuntimeError(
                f"the shards in {self.folder} have the dimensions {sorted(dimensions)}; start over "
                "(--force)"
            )
        return sum(texts for texts, _ in footers), max(dimensions, default=0)

    def _footer(self, number: int) -> tuple[int, int]:
        parquet = import_extra("pyarrow.parquet", "ray")
        system, folder = filesystem(self.folder)
        with system.open(f"{folder}/{shard_name(number)}", "rb") as stream:
            metadata = parquet.read_metadata(stream)
        return metadata.num_rows, int((metadata.metadata or {}).get(_DIMENSION, 0))

    def _clear(self) -> None:
        system, folder = filesystem(self.folder)
        # the manifest goes last, so that a killed removal is started over as well
        for path in system.glob(f"{folder}/part-*.parquet"):
            system.rm_file(path)
        system.rm_file(f"{folder}/{MANIFEST}")


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"part-{number:06d}.parquet"


def write_shard(
    folder: str, number: int, ids: Sequence[str], windows: Iterable[np.ndarray]
) -> None:
    """Write one shard, which appears under its name as a whole or not at all.

    Args:
        folder: As of `absolute`.
        number: Of the shard.
        ids: Of all rows.
        windows: Vectors of consecutive rows, (rows, dimension) float32; each is a row group.
    """
    parquet = import_extra("pyarrow.parquet", "ray")
    # random bits do not shrink, and have neither repetitions nor bounds to look up
    options: dict[str, Any] = {
        "compression": {"docid": "zstd", "vector.list.element": "none"},
        "use_dictionary": False,
        "write_statistics": ["docid"],
    }
    with (
        _appearing(folder, shard_name(number)) as (system, path),
        system.open(path, "wb") as stream,
        parquet.ParquetWriter(stream, parquet_schema(), **options) as writer,
    ):
        row = 0
        for vectors in windows:
            rows, dimension = vectors.shape
            table = parquet_table(ids[row : row + rows], vectors)
            writer.write_table(table, row_group_size=rows)
            row += rows
        if row != len(ids):
            raise RuntimeError(f"{shard_name(number)} has {len(ids)} ids and {row} vectors")
        writer.add_key_value_metadata({_DIMENSION: str(dimension if row else 0)})


@contextmanager
def _appearing(folder: str, name: str) -> Iterator[tuple[Any, str]]:
    """Yield a path to write to, which gets its name only if the block ends well."""
    system, inner = filesystem(folder)
    system.makedirs(f"{inner}/{_UNFINISHED}", exist_ok=True)
    # a name of its own: a writer that was given up may still be at work
    partial = f"{inner}/{_UNFINISHED}/{uuid.uuid4().hex}"
    yield system, partial
    system.mv(partial, f"{inner}/{name}")


def _differences(begun: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    found = []
    for name in sorted({*begun, *wanted}):
        was, now = begun.get(name), wanted.get(name)
        if was == now:
            continue
        if name == "files":
            before, after = (
                {file["path"]: file["size"] for file in files} for files in (was or [], now or [])
            )
            path = min(path for path in {*before, *after} if before.get(path) != after.get(path))
            was = f"{path} of {before[path]:,} bytes" if path in before else f"without {path}"
            now = f"{after[path]:,} bytes" if path in after else "without it"
            found.append(f"corpus was {was}, is {now}")
        else:
            found.append(f"{name} was {was!r}, is {now!r}")
    return found
