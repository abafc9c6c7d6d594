"""Write an encoder as a GGUF file, for llama.cpp and what is built on it: Ollama, LM Studio."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..encoder.encoder import transformer_model
from ..encoder.tokenization import save_tokenizer
from .gguf_check import Checked, check_file
from .gguf_layout import Layout, lay_out
from .gguf_metadata import Heads, heads_of, new_writer, origin_of
from .gguf_tensors import pieces_of, type_of, write_file
from .gguf_usage import gguf_usage, write_modelfile
from .gguf_vocabulary import Vocabulary, vocabulary_of
from .written import Written

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder

TYPES = {"fp32": "F32", "fp16": "F16", "q8_0": "Q8_0"}
"""Dtype of the weights -> GGUF's name."""
LEAST = {"fp32": 0.9999, "fp16": 0.999, "q8_0": 0.99}
"""Dtype of the weights -> the smallest cosine to the vectors of the folder that is rounding. With
q8_0 llama.cpp rounds what goes into a product to 8 bits as well."""
OTHER_TYPES = (
    "; others, such as q4_k_m, are made by llama.cpp's own tool: convert with --dtype fp16, then "
    "run: llama-quantize OUT/model-fp16.gguf OUT/model-q4_k_m.gguf Q4_K_M"
)
"""For the error that names the dtypes."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file, and what its users must know."""

    file: str
    """Its name."""
    layout: Layout
    heads: Heads
    vocabulary: Vocabulary
    kept_in_f16: tuple[str, ...]
    """Tensors whose rows Q8_0 cannot part."""
    notes: tuple[str, ...]
    """What differs from the folder."""
    checked: Checked | None
    """None where llama-cpp-python is not installed."""


def to_gguf(
    encoder: Encoder, folder: Path, *, name: str, dtype: str, tokenizer: bool = True
) -> Written:
    """Write an encoder into an empty folder, and run it in llama.cpp where that is installed.

    Args:
        encoder: On the CPU, in fp32.
        folder: Empty.
        name: Of the model.
        dtype: One of `TYPES`.
        tokenizer: Hold the tokenizer as well. Without it the file takes token ids, and the
            folder's tokenizer lies beside it.

    Raises:
        ImportError: The package `gguf` is missing.
        RuntimeError: llama.cpp gives other ids or vectors.
        ValueError: llama.cpp cannot compute this model, or cut texts as it does.
    """
    made = make_gguf(encoder, folder, name=name, dtype=dtype, tokenizer=tokenizer)
    write_modelfile(folder, made)
    return Written(
        file=made.file,
        cosine=made.checked.least_cosine if made.checked else None,
        least=LEAST[dtype],
        unchecked="pip install llama-cpp-python, which compiles it, then convert again",
        inside="Pooling is in the file; vectors get unit length where they are asked for.",
        usage=gguf_usage(made, name=name, dtype=dtype, query=encoder.prompts.get("query") or ""),
        tags=("gguf", "llama.cpp"),
    )


def ids_to_gguf(encoder: Encoder, folder: Path, *, name: str, dtype: str) -> Written:
    """Write an encoder as `to_gguf` does, without its tokenizer."""
    return to_gguf(encoder, folder, name=name, dtype=dtype, tokenizer=False)


def make_gguf(
    encoder: Encoder, folder: Path, *, name: str, dtype: str, tokenizer: bool = True
) -> Made:
    """Write and check the file alone, and return what is to be said of it.

    Pruned Llama, Mistral and Qwen2 models whose blocks differ take llama.cpp's graph `deci`, and
    Qwen3 `openelm`; all others their family's own.
    """
    wanted, model = TYPES[dtype], transformer_model(encoder)
    layout = lay_out(encoder)
    heads = heads_of(encoder, layout.graph)
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.num_embeddings
    vocabulary = vocabulary_of(encoder.tokenizer, rows) if tokenizer else Vocabulary(model="none")
    pieces = pieces_of(model, layout, heads.dense)
    path = folder / f"model-{dtype}.gguf"
    told = origin_of(encoder, name)
    writer = new_writer(layout, model.config, heads, vocabulary, told, wanted=wanted, rows=rows)
    write_file(path, writer, pieces, wanted)
    if not tokenizer:
        save_tokenizer(encoder.tokenizer, folder)
    checked = None
    if find_spec("llama_cpp") is not None:
        checked = check_file(
            path, encoder, LEAST[dtype], vocabulary=vocabulary, longest=layout.longest
        )
    return Made(
        file=path.name,
        layout=layout,
        heads=heads,
        vocabulary=vocabulary,
        kept_in_f16=tuple(x.name for x in pieces if type_of(x, wanted) not in (wanted, "F32")),
        notes=_notes(encoder, layout, vocabulary),
        checked=checked,
    )


def _notes(encoder: Encoder, layout: Layout, vocabulary: Vocabulary) -> tuple[str, ...]:
    cut = encoder.truncate_dim
    notes = [f"The folder cuts vectors to {cut} dimensions."] if cut is not None else []
    return (*layout.notes, *vocabulary.notes, *notes)
