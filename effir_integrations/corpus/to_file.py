"""Encode a corpus of any size into one file of vectors, in flat memory, resumable at any point.

Texts are read, encoded and put on the disk in windows. A run that is killed loses its window and
nothing else: the next one reads the texts again, checks that they are the same, and resumes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sentence_transformers import SentenceTransformer

from ..data.corpus import corpus_pairs, count_texts
from ..data.inputs import streamed
from ..data.vector_files import BYTES_A_NUMBER, check_ending, check_id, ids_path
from ..encoder.fingerprint import encoder_fingerprint
from ..encoder.loading import loaded
from ..encoder.space_record import Space, documents_of
from ..encoder.tokenization import cut_to, token_limit
from ..files import check_space
from ..html_table import html_fields
from ..progress import Progress, is_shown, progress_bar
from .resume import State, Unfinished, may_replace, work_folder

if TYPE_CHECKING:
    Pair = tuple[str, str]
    Texts = str | os.PathLike[str] | Iterable[Pair] | Iterable[str]

logger = logging.getLogger(__name__)

WINDOW = 4096
LARGEST_WINDOW = 65536


@dataclass(frozen=True, kw_only=True)
class EncodedFile:
    """What `encode_to_file` wrote, and how long this run took."""

    path: Path
    """The file of vectors."""
    ids_path: Path | None
    """The ids, one a line, of a .npy file; the other kinds hold theirs."""
    rows: int
    """Texts."""
    repeated_ids: int
    """Texts whose id an earlier one has as well."""
    dimension: int
    """Numbers a vector."""
    resumed_from: int
    """Texts that earlier runs had done."""
    seconds: float
    """From the first read to the finished file, of this run."""
    tokens: int | None
    """Real tokens of this run, equal texts of a window counted once; None if they are unknown."""

    @property
    def texts_per_second(self) -> float:
        """The speed of this run."""
        return (self.rows - self.resumed_from) / self.seconds

    def _repr_html_(self) -> str:
        """Return the fields, as a notebook shows them."""
        return html_fields("EncodedFile", vars(self))


def encode_to_file(
    model: SentenceTransformer | str | Path,
    texts: Texts,
    out: str | os.PathLike[str],
    *,
    prompt: str | None = None,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    max_length: int | None = None,
    window: int = WINDOW,
    made_by: Space | None = None,
    force: bool = False,
    show_progress: bool | None = None,
) -> EncodedFile:
    """Write the vectors of a corpus into a file, or resume a run that was stopped.

    Until `out` is whole it does not exist; what is done lies in a hidden folder beside it. Run
    through or stopped and continued, the file has the same bytes on the same machine. Beside it
    `OUT.effir` names the model, for adapters to refuse another one's queries (`check_store`).

    Args:
        model: Gives the vectors; or the folder or name to load it from.
        texts: A .jsonl or .parquet file, its keys or columns as in `records`, or an iterable of
            `(id, text)` pairs, or of texts, whose ids are then 0, 1, 2 and so on. Read in windows,
            and again from the start after an interruption.
            An id that stands there twice is written twice, with a warning.
        out: Ends in .npy (float32, (texts, dimension), the ids one a line in `NAME.ids.txt`),
            .parquet (columns docid and vector) or .jsonl (keys docid and vector); Anserini reads
            the last two.
        prompt: Put in front of every text; None is the encoder's default prompt, if it has one.
        normalize_embeddings: Scale to unit length, for a model that does not do so itself.
        truncate_dim: Keep that many leading numbers of every vector; None keeps the model's own.
        max_length: Tokens a text is cut to, at most the encoder's own limit, which None takes.
        window: Texts that are encoded together and lost together if the process is killed.
        made_by: Which model a loaded one is, by its files, as of `documents_of`; None knows it by
            its weights.
        force: Replace `out`, and throw away what an earlier run did.
        show_progress: Show bars;
            None: where someone watches, in a notebook or a terminal.

    Raises:
        FileExistsError: `out` exists and `force` was not given.
        FileNotFoundError: No corpus is at `texts`.
        ImportError: Parquet needs pyarrow.
        OSError: The disk is or would be full; what is done is kept.
        ValueError: An argument or a record cannot be used; there is no text; an earlier run that
            did not end had another model, other settings or other texts.
        RuntimeError: A vector is not finite.
    """
    show_progress = is_shown(show_progress)
    start = time.perf_counter()
    out = Path(os.path.abspath(out))
    given: Path | Iterable[Pair]
    given = Path(texts) if isinstance(texts, (str, os.PathLike)) else streamed(texts)
    check_encode_to_file(given, out, force=force)
    if made_by is None and not isinstance(model, SentenceTransformer):
        made_by = documents_of(model)
    encoder = loaded(model)
    settings = _settings(encoder, prompt, normalize_embeddings, truncate_dim, max_length, window)
    begun = _begun(encoder, made_by, settings, replaces=force)
    counted = getattr(encoder, "tokens_encoded", None)
    work = Unfinished(out, begun, restart=force)
    try:
        resumed_from = work.state.rows
        total = _count(given)
        _check_room(work, encoder, total)
        corpus = _Corpus(given, out)
        with work.explained_when_full():
            corpus.skip(work, show_progress)
            _encode_windows(encoder, corpus, work, total, show_progress)
            repeated = _repeated_ids(work)
            work.finish()
    finally:
        work.close()
    return EncodedFile(
        path=out,
        ids_path=ids_path(out),
        rows=work.state.rows,
        repeated_ids=repeated,
        dimension=work.state.dimension,
        resumed_from=resumed_from,
        seconds=time.perf_counter() - start,
        tokens=None if counted is None else encoder.tokens_encoded - counted,
    )


def _begun(
    encoder: SentenceTransformer, made_by: Space | None, settings: dict[str, Any], *, replaces: bool
) -> State:
    fingerprint = encoder_fingerprint(encoder)
    known = made_by or Space(name=_name(encoder), files=f"sha256 {fingerprint}")
    return State(
        settings=settings,
        encoder=fingerprint,
        model=known.name,
        files=known.files,
        replaces=replaces,
    )


def _name(encoder: SentenceTransformer) -> str:
    place = getattr(getattr(encoder[0], "model", None), "name_or_path", "")
    return str(place or type(encoder).__name__)


def _repeated_ids(work: Unfinished) -> int:
    repeated, example = work.repeated_ids()
    if repeated:
        logger.warning(
            "%s: %d of %d texts have the id of an earlier one, such as %r; each has its own row, "
            "and an index may keep one of them only: make the ids unique",
            work.out,
            repeated,
            work.state.rows,
            example,
        )
    return repeated


def _count(texts: Texts) -> int | None:
    if isinstance(texts, Path):
        return count_texts(texts)
    return len(texts) if isinstance(texts, Sized) else None


def check_encode_to_file(texts: Path | Iterable[Pair], out: Path, *, force: bool) -> None:
    """Refuse what no encoder is needed to refuse, before one is loaded.

    Raises:
        FileExistsError: `out` exists and `force` was not given.
        FileNotFoundError: No corpus is at `texts`.
        ImportError: Parquet needs pyarrow.
        ValueError: The ending is not known, or the first record of a corpus cannot be used.
    """
    out = Path(os.path.abspath(out))
    check_ending(out)
    if out.is_dir():
        raise FileExistsError(f"{out} is a folder; name a file to write to")
    ids = ids_path(out)
    begun = work_folder(out).is_dir()
    for path in (out, ids):
        if path is None or not path.exists() or force:
            continue
        # a run that is stopped while it ends may have written the ids, but not the vectors
        if may_replace(out) if path == out else begun:
            continue
        raise FileExistsError(f"{path} exists; choose another file, or replace it (--force)")
    if isinstance(texts, Path) and next(corpus_pairs(texts), None) is None:
        raise ValueError(f"{texts} holds no text; give a corpus of at least one")


def _settings(
    encoder: SentenceTransformer,
    prompt: str | None,
    normalize_embeddings: bool,
    truncate_dim: int | None,
    max_length: int | None,
    window: int,
) -> dict[str, Any]:
    """Return what changes the vectors, besides the model, as the encoder will take it."""
    if not 1 <= window <= LARGEST_WINDOW:
        raise ValueError(f"window={window} must be from 1 to {LARGEST_WINDOW}")
    if prompt is None and encoder.default_prompt_name is not None:
        prompt = encoder.prompts[encoder.default_prompt_name]
    return {
        "prompt": prompt or "",
        "normalize_embeddings": normalize_embeddings,
        "truncate_dim": encoder.truncate_dim if truncate_dim is None else truncate_dim,
        "max_seq_length": token_limit(encoder, max_length),
        "window": window,
        "weights": sorted({str(weight.dtype) for weight in encoder.parameters()}),
    }


def _check_room(work: Unfinished, encoder: SentenceTransformer, total: int | None) -> None:
    """Refuse a corpus of known size whose vectors the disk cannot hold."""
    dimension = work.state.settings["truncate_dim"] or encoder.get_embedding_dimension()
    if total is not None and dimension is not None:
        missing = 4 * max(0, total - work.state.rows)
        needed = missing + BYTES_A_NUMBER[work.out.suffix] * total
        check_space(work.folder, needed * dimension)


class _Corpus:
    """The pairs of a corpus, checked and hashed as they are read."""

    def __init__(self, texts: Path | Iterable[Pair], out: Path) -> None:
        self.name = str(texts) if isinstance(texts, Path) else "the texts"
        pairs = corpus_pairs(texts) if isinstance(texts, Path) else texts
        self._pairs = self._checked(pairs, out)
        self._digest = hashlib.sha256()

    def window(self, size: int) -> list[Pair]:
        """Read the next pairs, `size` of them or fewer at the end."""
        return list(islice(self._pairs, size))

    def sha256(self) -> str:
        """Return the digest of all ids and texts so far."""
        return self._digest.hexdigest()

    def skip(self, work: Unfinished, show_progress: bool) -> None:
        """Read what an earlier run encoded, and refuse other texts than those.

        Raises:
            ValueError: They are others, or fewer, or more where the earlier run had come to the
                end.
        """
        rows, size = work.state.rows, work.state.settings["window"]
        if not rows:
            return
        left = islice(self._pairs, rows)
        bar = progress_bar(left, total=rows, desc="Reading again", unit="text", shown=show_progress)
        for _ in bar:
            pass
        at_end = rows % size != 0
        if self.sha256() != work.state.texts or (at_end and next(self._pairs, None) is not None):
            raise ValueError(
                f"{self.name}: these are not the texts whose first {rows:,} vectors lie in "
                f"{work.folder}; give that corpus again, or start over with --force (force=True)"
            )

    def _checked(self, pairs: Iterable[Pair | str], out: Path) -> Iterator[Pair]:
        advice = "write .parquet or .jsonl, or give it another id" if ids_path(out) else None
        for row, pair in enumerate(pairs, start=1):
            where = f"{self.name}, text {row}"
            if isinstance(pair, str):
                pair = (str(row - 1), pair)
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(
                    f"{where}: found {type(pair).__name__} ({pair!r:.60}); give texts, or "
                    "pairs (id, text)"
                )
            identifier, text = pair
            for what, value in (("id", identifier), ("text", text)):
                if not isinstance(value, str):
                    raise ValueError(
                        f"{where}: its {what} is {type(value).__name__} ({value!r:.60}); give a "
                        "string"
                    )
            check_id(identifier, where, line_break=advice)
            for part in (identifier, text):
                content = part.encode("utf-8", "surrogatepass")
                self._digest.update(len(content).to_bytes(8, "little") + content)
            yield identifier, text


def _encode_windows(
    encoder: SentenceTransformer,
    corpus: _Corpus,
    work: Unfinished,
    total: int | None,
    show_progress: bool,
) -> None:
    settings = work.state.settings
    left = None if total is None else max(0, total - work.state.rows)
    with Progress(left, shown=show_progress) as progress:
        while pairs := corpus.window(settings["window"]):
            ids = [identifier for identifier, _ in pairs]
            before = getattr(encoder, "tokens_encoded", 0)
            vectors = _vectors(encoder, [text for _, text in pairs], settings)
            _check_finite(vectors, ids)
            work.append(ids, vectors, corpus.sha256())
            progress.advance(len(ids), getattr(encoder, "tokens_encoded", 0) - before)
    if not work.state.rows:
        raise ValueError(f"{corpus.name}: there is no text; give at least one")


def _vectors(
    encoder: SentenceTransformer, texts: list[str], settings: dict[str, Any]
) -> np.ndarray:
    vectors = encoder.encode(
        texts,
        prompt=settings["prompt"],
        normalize_embeddings=settings["normalize_embeddings"],
        truncate_dim=settings["truncate_dim"],
        show_progress_bar=False,
        **cut_to(encoder, settings["max_seq_length"]),
    )
    return np.asarray(vectors, dtype=np.float32)


def _check_finite(vectors: np.ndarray, ids: list[str]) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        first = ids[int(finite.argmin())]
        raise RuntimeError(
            f"the vector of {first!r} is not finite, so the model overflows or is broken; load it "
            "in fp32 or bf16 (--precision fp32)"
        )
