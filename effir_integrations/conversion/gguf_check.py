"""Run a file in llama.cpp and compare it with the model it was made from."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.text import clean_text
from ..encoder.folder import PROBES
from ..encoder.tokenization import token_limit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .gguf_vocabulary import Vocabulary

TEXTS = (
    *PROBES,
    "tabs\tand\nlines,  two spaces",
    "12345 6.78e-9 100,000 1/2",
    "don't we'll I'M you'RE",
    "naïve café, Straße, ÅNGSTRÖM",
    "東京は日本の首都です。",
    "한국어 हिन्दी",
    "العربية, עברית, Ελλάδα, Việt Nam, ไทย",
    "🙂 👩\u200d🔬 ∑ ≠ © №5",
    "def f(x): return {'a': x**2}  # camelCase snake_case",
    " space before and after ",
    "How do plants make sugar?",
)
"""What token ids and vectors are compared on."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a comparison found."""

    texts: int
    ids_compared: int
    """Texts whose ids were compared: all that are not cut, but for what the file's notes name."""
    least_cosine: float


def check_file(
    path: Path,
    encoder: SentenceTransformer,
    smallest: float,
    *,
    vocabulary: Vocabulary,
    longest: int,
) -> Checked:
    """Compare token ids and vectors of `TEXTS` in llama.cpp and in the model.

    Args:
        path: The file.
        encoder: The model, in fp32.
        smallest: The cosine that is rounding of the file's type.
        vocabulary: The tokenizer in the file.
        longest: Tokens of a text, at most.

    Raises:
        ImportError: llama-cpp-python is not installed.
        RuntimeError: Ids or vectors differ.
    """
    texts = [clean_text(text) for text in TEXTS]
    limit = min(longest, token_limit(encoder) or longest)
    ids = [
        encoder.tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts
    ]
    kept = [place for place, row in enumerate(ids) if row]
    with LlamaFile(path, longest=max(map(len, ids))) as file:
        compared = 0
        for place in kept if vocabulary.model != "none" else ():
            whole = encoder.tokenizer(texts[place], verbose=False)["input_ids"]
            if whole == ids[place] and vocabulary.cuts_alike(texts[place]):
                _check_ids(texts[place], whole, file.tokenize(texts[place]))
                compared += 1
        found = np.stack([file.embed(ids[place]) for place in kept])
    expected = np.stack([_vector(encoder, ids[place]) for place in kept])
    least = float(_cosines(found, expected).min())
    if not least >= smallest:
        raise RuntimeError(
            f"llama.cpp gives other vectors than the model (cosine down to {least:.6f}, at least "
            f"{smallest} is rounding); nothing was written, choose a wider --dtype, or report this "
            "with the model's name"
        )
    return Checked(texts=len(kept), ids_compared=compared, least_cosine=least)


def _check_ids(text: str, expected: Sequence[int], found: Sequence[int]) -> None:
    pairs = list(zip_longest(expected, found))
    if differing := [place for place, pair in enumerate(pairs) if pair[0] != pair[1]]:
        ours, theirs = pairs[differing[0]]
        raise RuntimeError(
            f"llama.cpp cuts {text[:40]!r} into other tokens than the folder (token {theirs}, not "
            f"{ours}, at place {differing[0]}); nothing was written, choose --to gguf-ids or "
            "--to onnx, and please report this with the model's name"
        )


def _vector(encoder: Any, ids: Sequence[int]) -> np.ndarray:
    row = torch.tensor([list(ids)], device=encoder.device)
    features = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    with torch.inference_mode():
        vector: np.ndarray = encoder(features)["sentence_embedding"][0].float().cpu().numpy()
    return vector


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    product: np.ndarray = (first * second).sum(axis=1) / lengths
    return product


def llama_cpp() -> Any:
    """Return the package llama_cpp.

    No extra of ours brings it: it is compiled where it is installed, for minutes.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module("llama_cpp")
    except ModuleNotFoundError as error:
        raise ImportError(
            "llama-cpp-python is not installed; pip install llama-cpp-python, which compiles it",
            name="llama_cpp",
        ) from error


class LlamaFile:
    """A file as llama.cpp runs it: texts to ids, and ids to the pooled vector, one at a time."""

    def __init__(self, path: Path, *, longest: int) -> None:
        """Load a file for texts of at most `longest` tokens, on the CPU.

        Raises:
            ImportError: llama-cpp-python is not installed.
            RuntimeError: llama.cpp does not load it, and has said why on standard error.
        """
        self.library = library = llama_cpp()
        self.log = logging.getLogger("llama-cpp-python")
        self.level = self.log.level
        self.log.setLevel(logging.ERROR)
        library.llama_backend_init()
        options = library.llama_model_default_params()
        options.n_gpu_layers = 0
        # weights laid out for AMX crash the process on some machines (ggml-org/llama.cpp#20824)
        options.use_extra_bufts = False
        self.model = library.llama_model_load_from_file(str(path).encode(), options)
        self.context = self.model and library.llama_init_from_model(
            self.model, self._options(longest)
        )
        if not self.context:
            self.close()
            raise RuntimeError(
                f"llama.cpp does not load {path.name}, for the reason above; nothing was written, "
                "please report this with the model's name"
            )
        self.vocabulary = library.llama_model_get_vocab(self.model)
        self.log.setLevel(logging.CRITICAL)  # what it warns of at each text is meant so

    def _options(self, longest: int) -> Any:
        """Return settings of a run; at their defaults of sizes longer texts are cut or refused."""
        options = self.library.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = longest
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        options.embeddings = True
        # the file is compared, not what flash attention and a cache in fp16 round
        options.flash_attn_type = 0
        options.type_k = options.type_v = 0
        return options

    def close(self) -> None:
        """Give the memory back."""
        if self.context:
            self.library.llama_free(self.context)
        if self.model:
            self.library.llama_model_free(self.model)
        self.context = self.model = None
        self.log.setLevel(self.level)

    def __enter__(self) -> LlamaFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text, with those that the file puts around it."""
        content = text.encode("utf-8")
        room = len(content) + 8
        ids = (self.library.llama_token * room)()
        count = self.library.llama_tokenize(
            self.vocabulary, content, len(content), ids, room, True, False
        )
        return list(ids[:count])

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Return the pooled vector of a text, (dimension,) fp32, not normalised.

        Raises:
            RuntimeError: llama.cpp failed.
        """
        library, context = self.library, self.context
        if memory := library.llama_get_memory(context):
            library.llama_memory_clear(memory, True)
        row = (library.llama_token * len(ids))(*ids)
        if library.llama_decode(context, library.llama_batch_get_one(row, len(ids))):
            raise RuntimeError(f"llama.cpp failed on a text of {len(ids)} tokens")
        size = library.llama_model_n_embd_out(self.model)
        found = library.llama_get_embeddings_seq(context, 0)
        return np.array(found[:size], dtype=np.float32)
