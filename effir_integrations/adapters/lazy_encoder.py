"""What all adapters hold: an encoder that is loaded on first use and stays behind when copied."""

from __future__ import annotations

import asyncio
import copy
import gc
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from ..data.text import clean_text
from ..encoder.call_lock import CallLock, OneThread, call_lock
from ..encoder.encoder import role_prompt
from ..encoder.fingerprint import encoder_fingerprint
from ..encoder.loading import load
from ..encoder.model_files import identify_files
from ..encoder.pair import PairEncoder
from ..encoder.precision import PRECISIONS, loading_options
from ..encoder.search_vectors import Role, inner_product_is_similarity, search_vectors
from ..encoder.space_record import Space, space_of
from ..encoder.tokenization import token_limit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class LazyEncoder:
    """An encoder by its folder or hub name, loaded when the first text comes, by one thread.

    Calls of several threads queue, so forward passes never run into each other. A pickle holds the
    name and the settings, never weights.

    Args:
        model: Folder, hub name, or a `SentenceTransformer` that is loaded already.
        device: As in torch; None takes an accelerator where there is one.
        precision: As of `load`; None takes the dtype of the checkpoint.
        max_length: Tokens a text is cut to, at most the model's own limit; None takes that.
        truncate_dim: Leading dimensions of the vectors that are kept; None keeps all.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run modelling code that lies in the folder.

    Raises:
        FileNotFoundError: There is no such model folder, or a weight file is missing.
        ValueError: A setting is out of range, or is given for a model that is loaded already.
    """

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        *,
        device: str | None = None,
        precision: str | None = "auto",
        max_length: int | None = None,
        truncate_dim: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        for name, value in (("max_length", max_length), ("truncate_dim", truncate_dim)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1, or None")
        if precision not in (None, *PRECISIONS):
            raise ValueError(
                f"precision {precision!r} is not known; choose None or {', '.join(PRECISIONS)}"
            )
        self._lock, self._worker = CallLock(), OneThread("effir-encoder")
        self._encoder: Any = None
        self._warned, self.only_queries = False, False
        self.max_length, self.truncate_dim = max_length, truncate_dim
        self._options: dict[str, Any] = {
            "device": device,
            "precision": precision,
            "trust_remote_code": trust_remote_code,
        }
        if isinstance(model, str | Path):
            files = identify_files(model, revision)
            self.name, self.fingerprint = str(model), files.identity
            self._know_space(space_of(model, files.revision))
            self._source, self._options["revision"] = files.name, files.revision
        else:
            self._source = ""
            self._take(model)

    def _take(self, model: SentenceTransformer) -> None:
        device = self._options["device"]
        if device:
            raise ValueError(
                f"device={device!r} is for a model given by name; call model.to(...) on a "
                "loaded one"
            )
        inner_product_is_similarity(model)
        self._encoder = model
        place = getattr(getattr(model[0], "model", None), "name_or_path", "")
        self.name = model.model_card_data.model_id or place or type(model).__name__
        self.fingerprint = f"sha256 {encoder_fingerprint(model)}"
        documents = None
        if isinstance(model, PairEncoder):
            made = f"sha256 {encoder_fingerprint(model.tower('document'))}"
            documents = Space(name=self.name, files=made, same_documents=True)
        self._know_space(documents)

    def _know_space(self, space: Space | None) -> None:
        own = Space(name=self.name, files=self.fingerprint, same_documents=True)
        self.documents = space if space is not None and space.same_documents else own
        """The model whose vectors documents get here."""
        known = {self.fingerprint, *([] if space is None else [space.files])}
        self.searches = frozenset(known)
        """Fingerprints of the models whose documents queries can be compared with."""

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._encoder is not None

    @property
    def encoder(self) -> SentenceTransformer:
        """The encoder, loaded now if it was not."""
        with self._lock:
            if self._encoder is None:
                self._check_files()
                self._encoder = load(self._source, **self._options)
                inner_product_is_similarity(self._encoder)
            return self._encoder

    def _check_files(self) -> None:
        now = identify_files(self._source, self._options["revision"]).identity
        if now != self.fingerprint:
            raise RuntimeError(
                f"the files of {self._source} are others than when {self.name} was named, so its "
                "vectors would not fit those made before; make a new adapter, and index again"
            )

    @property
    def limit(self) -> int | None:
        """Tokens of a text that are read; None where neither model nor adapter sets a limit."""
        return token_limit(self.encoder, self.max_length)

    @property
    def tokenizer(self) -> Any:
        """A copy of the tokenizer, which may be used while another thread encodes."""
        encoder = self.encoder
        with call_lock(encoder):
            return copy.deepcopy(encoder.tokenizer)

    @property
    def dimension(self) -> int:
        """The length of the vectors."""
        whole = self.encoder.get_embedding_dimension()
        if whole is None:
            return self.embed(["length"], "query").shape[1]
        return min(whole, self.truncate_dim or whole)

    def embed(
        self,
        texts: Sequence[str],
        kind: Role,
        *,
        prompt: str | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> np.ndarray:
        """Return vectors whose inner products are the model's similarity, (texts, dimension).

        Args:
            texts: Any number of any lengths; the encoder makes its own batches.
            kind: "query" or "document": which prompt of the model applies.
            prompt: Put in front instead of the model's own; empty for none.
            max_length: Tokens a text is cut to in this call, instead of the adapter's.
            show_progress: Draw a progress bar.

        Raises:
            ValueError: A text is no string, or `texts` is a single one, or documents are given
                where queries alone were expected.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts is one string ({texts!r:.60}); give a list of strings")
        length = self.max_length if max_length is None else max_length
        if not len(texts):
            return np.zeros((0, self.dimension), dtype=np.float32)
        if self.only_queries and kind == "document":
            raise ValueError(
                f"{self.name} is to search documents of another model (fingerprint), among which "
                "those that it encodes would not fit; add documents with that model, or with a "
                "pair that encodes them by it (effir pair)"
            )
        encoder = self.encoder
        with call_lock(encoder):
            return search_vectors(
                encoder,
                texts,
                kind=kind,
                prompt=prompt,
                truncate_dim=self.truncate_dim,
                max_length=length,
                show_progress=show_progress,
            )

    async def arun(self, call: Callable[[], Result]) -> Result:
        """Run what calls the encoder on a thread of its own, so that the event loop is not blocked.

        Calls run one after the other, in the order they came. One that is cancelled before its
        turn never runs; one that is running ends unheard.
        """
        return await asyncio.get_running_loop().run_in_executor(self._worker.executor, call)

    def vectors_identity(self, **prompts: str | None) -> str:
        """Return a SHA-256 that two adapters share only if they give the same vectors.

        Of what decides about vectors it leaves out only the rounding of devices and batches.

        Args:
            prompts: What the adapter puts in front instead of the model's own.
        """
        facts: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "max_length": self.max_length,
            "truncate_dim": self.truncate_dim,
            "prompts": prompts,
        }
        precision = self._options["precision"]
        if not self._source:
            # the fingerprint of a loaded model is that of its weights alone
            model = self._encoder
            facts["own"] = [model.prompts, model.default_prompt_name, model.max_seq_length]
            facts["own"] += [model.similarity_fn_name, model.truncate_dim]
        elif precision is not None:
            dtype = loading_options(precision, self._options["device"])["dtype"]
            whole = precision in ("auto", "fp32", "bf16")
            facts["arithmetic"] = [str(dtype), "" if whole else precision]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def document_prompt(self, prompt: str | None) -> str:
        """Return what stands in front of documents that are embedded with `prompt`."""
        return role_prompt(self.encoder, "document") if prompt is None else prompt

    def truncation(self, texts: Sequence[str], *, prompt: str = "") -> tuple[int, float]:
        """Return how many texts exceed the model's limit, and the share of their tokens cut off."""
        limit = self.limit
        if not limit:
            return 0, 0.0
        cleaned = [clean_text(prompt + text) for text in texts]
        # a token covers at least one byte, so most short texts need not be counted
        candidates = [text for text in cleaned if len(text.encode()) > limit]
        if not candidates:
            return 0, 0.0
        encoder = self.encoder
        # no two threads may use one tokenizer; the warning of Transformers is the caller's to word
        with call_lock(encoder):
            counted = encoder.tokenizer(candidates, truncation=False, verbose=False)["input_ids"]
        lengths = [len(ids) for ids in counted if len(ids) > limit]
        lost = sum(length - limit for length in lengths)
        return len(lengths), lost / sum(lengths) if lengths else 0.0

    def warn_of_cuts(
        self,
        documents: Sequence[str],
        *,
        prompt: str | None = None,
        advice: str = "split documents into shorter ones",
    ) -> None:
        """Log, once, how much of documents is lost because they are too long for the model.

        Args:
            documents: What is about to be embedded.
            prompt: As of `embed`.
            advice: What to do, in the words of the library that they come from.
        """
        if self._warned:
            return
        # what is no string is refused where it is embedded
        texts = [text for text in documents if isinstance(text, str)]
        count, share = self.truncation(texts, prompt=self.document_prompt(prompt))
        if count:
            self._warned = True
            logger.warning(
                "%d of %d documents are longer than the %s tokens that %s reads, and %.0f %% of "
                "their tokens are lost; %s (said once)",
                count, len(documents), self.limit, self.name, 100 * share, advice,
            )  # fmt: skip

    def unload(self) -> None:
        """Free the weights; the next text loads them again.

        Raises:
            ValueError: The model was given loaded, so nothing could bring it back.
        """
        with self._lock:
            if not self._source:
                raise ValueError(
                    f"{self.name} was given as a loaded model and could not be loaded again; "
                    "delete the adapter instead"
                )
            self._encoder = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def __getstate__(self) -> dict[str, Any]:
        """Leave weights behind; only a model given loaded has to travel itself."""
        kept = self._encoder if not self._source else None
        return {**self.__dict__, "_encoder": kept}
