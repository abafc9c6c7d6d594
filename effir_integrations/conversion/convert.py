"""Write an encoder in the format of another engine, and check it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..encoder.encoder import transformer_model
from ..encoder.folder import saved_bytes
from ..encoder.history import history_at, with_stage
from ..encoder.loading import load
from ..encoder.sources import find_source
from ..extras import import_extra
from ..files import claimed, folder_bytes, new_folder, write_json
from ..html_table import html_fields
from ..model.modeling import HISTORY_FILE
from ..model.peft_folder import with_bases
from ..progress import is_shown, progress_bar
from .card import converted_card
from .engine_files import text_limit
from .to_gguf import OTHER_TYPES as OTHER_GGUF
from .to_gguf import TYPES as GGUF_DTYPES
from .to_gguf import ids_to_gguf, to_gguf
from .to_onnx import LEAST as ONNX_DTYPES
from .to_onnx import to_onnx
from .to_openvino import LEAST as OPENVINO_DTYPES
from .to_openvino import to_openvino
from .written import Written

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one format is written."""

    write: Callable[..., Written]
    """Called with an encoder on the CPU in fp32, an empty folder, `name` and `dtype`."""
    dtypes: tuple[str, ...]
    """Of the weights."""
    extra: str
    packages: tuple[str, ...]
    """What writing needs, by import names, and the extra that installs it."""
    other_dtypes: str = ""
    """For the error: how to come by dtypes that are not written."""


FORMATS = {
    "onnx": Format(
        write=to_onnx, dtypes=tuple(ONNX_DTYPES), extra="onnx", packages=("onnx", "onnxscript")
    ),
    "openvino": Format(
        write=to_openvino,
        dtypes=tuple(OPENVINO_DTYPES),
        extra="openvino",
        packages=("openvino", "onnx", "onnxscript"),
    ),
    **{
        name: Format(
            write=write,
            dtypes=tuple(GGUF_DTYPES),
            extra="gguf",
            packages=("gguf",),
            other_dtypes=OTHER_GGUF,
        )
        for name, write in (("gguf", to_gguf), ("gguf-ids", ids_to_gguf))
    },
}
"""Name after `--to` -> format."""
_COPIES = 3
"""Of the weights in fp32 that lie on the disk at a time, at most, while a model is converted."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What `convert` wrote."""

    out: Path
    to: str
    dtype: str
    file: str
    """The main file, relative to `out`."""
    size: int
    """Bytes of all files."""
    dimension: int | None
    max_length: int
    """Tokens a text is cut to."""
    cosine: float | None
    """The least one to a vector of the folder; None where no runtime was there to run it."""
    unchecked: str
    """What to do for the check where it was not made; else empty."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {**asdict(self), "out": str(self.out)}

    def _repr_html_(self) -> str:
        """Return the fields, as a notebook shows them."""
        return html_fields("Converted", self.to_json())


def convert(
    folder: str | Path,
    out: str | Path,
    to: str,
    *,
    dtype: str = "fp32",
    force: bool = False,
    show_progress: bool | None = None,
) -> Converted:
    """Write an encoder in the format of another engine, as a folder that stands alone.

    Pooling, normalisation and what else stands behind the transformer are inside; prompts, limit
    and tokenizer lie beside it. What was written is run in the engine's own runtime and compared
    with the folder before it gets its name.

    Args:
        folder: Of an encoder, pruned or not; a name on the hub or effir-mini will do as well.
        out: Folder to write; must be new or empty unless `force`.
        to: One of `FORMATS`.
        dtype: Of the weights, as the format has it; int8 also computes in 8 bits.
        force: Replace what is there, at the end and in one step.
        show_progress: Draw a bar over the steps;
            None: where someone watches, in a notebook or a terminal.

    Raises:
        FileExistsError: `out` holds something and `force` was not given, or files of others.
        FileNotFoundError: There is no such encoder.
        ImportError: A package of the format's extra is not installed.
        OSError: The disk is full.
        RuntimeError: What was written gives other vectors; nothing is left behind.
        ValueError: The format or the dtype is not known, or the encoder is more than it holds.
    """
    show_progress = is_shown(show_progress)
    chosen, out, name = _format(to, dtype), Path(out), str(folder)
    with (
        claimed(out, force=force, sources=with_bases([find_source(folder)])),
        progress_bar(total=3, desc="Converting", unit="step", shown=show_progress) as bar,
    ):
        for package in chosen.packages:
            import_extra(package, chosen.extra)
        encoder = load(folder, device="cpu", dtype="fp32")
        bar.update()
        needed = _COPIES * saved_bytes(encoder)
        with new_folder(out, force=force, needed_bytes=needed) as partial:
            written = chosen.write(encoder, partial, name=name, dtype=dtype)
            bar.update()
            _write_provenance(encoder, partial, written, name=name, to=to, dtype=dtype)
        size = folder_bytes(out)
        bar.update()
    return Converted(
        out=out,
        to=to,
        dtype=dtype,
        file=written.file,
        size=size,
        dimension=encoder.get_embedding_dimension(),
        max_length=text_limit(encoder),
        cosine=written.cosine,
        unchecked="" if written.cosine is not None else written.unchecked,
    )


def _format(to: str, dtype: str) -> Format:
    if to not in FORMATS:
        raise ValueError(f"format {to!r} is not known; choose from {', '.join(FORMATS)}")
    chosen = FORMATS[to]
    if dtype not in chosen.dtypes:
        raise ValueError(
            f"dtype {dtype!r} is not known for {to}; choose from {', '.join(chosen.dtypes)}"
            f"{chosen.other_dtypes}"
        )
    return chosen


def _write_provenance(
    encoder: Encoder, folder: Path, written: Written, *, name: str, to: str, dtype: str
) -> None:
    """Write history and card."""
    record = {
        "stage": "convert",
        "config": {"to": to, "dtype": dtype},
        "cosine": written.cosine,
    }
    source = str(transformer_model(encoder).name_or_path)
    write_json(folder / HISTORY_FILE, with_stage(history_at(encoder, source), record))
    card = converted_card(
        written,
        name=name,
        dtype=dtype,
        dimension=encoder.get_embedding_dimension(),
        limit=text_limit(encoder),
        prompts={key: text or "" for key, text in encoder.prompts.items()},
        base_card=encoder._model_card_text,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
