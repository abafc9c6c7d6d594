"""What an index says about the model that made it: `effir.json` beside `index` and `docid`."""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...data.jsonl import read_jsonl
from ...files import read_json, write_json

if TYPE_CHECKING:
    from ..lazy_encoder import LazyEncoder

_FORMAT = "effir_pyserini_index"
_NAME = "effir.json"
OTHER_MODEL = "--allow-other-model"


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """Which model encoded the documents of an index."""

    model: str
    """Folder or hub name, as given."""
    fingerprint: str
    """Of its files; a model given as an object has that of its weights."""
    dimension: int
    """Numbers a vector."""
    max_length: int | None
    """Tokens a document was cut to; None for no limit."""
    dtype: str
    """Of the arithmetic, such as "float32"."""
    documents: int
    """How many there are."""

    def __post_init__(self) -> None:
        if self.dimension < 1 or not self.fingerprint:
            raise ValueError(
                f"dimension={self.dimension} must be at least 1, and fingerprint="
                f"{self.fingerprint!r} must not be empty"
            )

    @classmethod
    def of(cls, encoder: LazyEncoder, documents: int, max_length: int | None = None) -> IndexRecord:
        """Describe what an encoder made of documents cut to `max_length`; None is its own limit."""
        limits = [limit for limit in (max_length, encoder.limit) if limit]
        return cls(
            model=encoder.documents.name,
            fingerprint=encoder.documents.files,
            dimension=encoder.dimension,
            max_length=min(limits, default=None),
            dtype=str(next(encoder.encoder.parameters()).dtype).removeprefix("torch."),
            documents=documents,
        )

    def save(self, folder: Path) -> None:
        """Write it to where `load` finds it."""
        write_json(record_path(folder), {"format": _FORMAT, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> IndexRecord | None:
        """Read what is said about an index, or a folder of JSON vectors; None if nothing is.

        Raises:
            ValueError: The file holds something else.
        """
        path = record_path(folder)
        if not path.is_file():
            return None
        content = read_json(path, "what effir wrote about an index")
        found = content.pop("format", None)
        if found != _FORMAT:
            raise ValueError(f"{path} has the format {found!r}, not {_FORMAT!r}; remove the file")
        try:
            return cls(**content)
        except TypeError as error:
            raise ValueError(
                f"{path} cannot be used ({error}); index the documents again"
            ) from error


def record_path(folder: Path) -> Path:
    """Return where the record of a folder lies.

    It is in the folder of an index, and beside a folder of JSON vectors, of which Pyserini reads
    every file.
    """
    if (folder / "embeddings.jsonl").is_file() and not (folder / "index").is_file():
        return folder.with_name(f"{folder.name}.{_NAME}")
    return folder / _NAME


def check_same_model(
    index: Path, fingerprints: Collection[str], name: str, *, allowed: bool = False
) -> None:
    """Refuse queries of another model than the one that encoded the documents of an index.

    Args:
        index: Folder; one without a record says nothing.
        fingerprints: Of the models whose documents the queries can search.
        name: Of the model of the queries.
        allowed: Accept another model all the same.

    Raises:
        ValueError: The record of the index names another fingerprint.
    """
    record = None if allowed else IndexRecord.load(index)
    if record is not None and record.fingerprint not in fingerprints:
        raise ValueError(
            f"--index {index} holds documents encoded by {record.model} ({record.dimension} "
            f"dimensions), and the queries are for {name}, another model or other weights; give "
            f"the same to both, or a query encoder that effir pair made for {record.model}, or "
            f"{OTHER_MODEL} (allow_other_model=True of EffirQueryEncoder) if one was trained to "
            "give the other's vectors"
        )


def check_index(folder: Path, option: str = "--index") -> None:
    """Refuse what is no Faiss index of Pyserini.

    Raises:
        FileNotFoundError: `index` or `docid` is not there.
    """
    for name in ("index", "docid"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{option} {folder} holds no file {name!r}; give the folder that encoding with "
                "--to-faiss, or index.faiss, wrote"
            )


def vector_dimension(folder: Path) -> int:
    """Return the dimension of a Faiss index, or of a folder of JSON vectors, by its first bytes.

    Raises:
        FileNotFoundError: It is neither.
        ValueError: The file is damaged.
    """
    index = folder / "index"
    if index.is_file():
        # every kind of index begins with four letters and the dimension; the rest can be large
        with index.open("rb") as stream:
            head = stream.read(8)
        if len(head) < 8 or head[:1] != b"I":
            raise ValueError(f"{index} is no Faiss index; index the documents again")
        return int(struct.unpack("<i", head[4:])[0])
    for path in sorted(path for path in folder.glob("*") if path.is_file()):
        for _, row in read_jsonl(path, required=("id", "vector")):
            return len(row["vector"])
    raise FileNotFoundError(
        f"{folder} holds neither a Faiss index nor vectors in JSON lines; give the folder that "
        "encoding wrote"
    )


def count_lines(path: Path) -> int:
    """Return the number of lines of a file of ids or vectors."""
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
