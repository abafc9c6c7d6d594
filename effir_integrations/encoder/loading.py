"""Load an encoder: a Sentence Transformers folder, or a bare Hugging Face model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.util import get_device_name

from ..extras import import_extra
from ..model.config_file import blamed_on_config, check_tokenizer
from ..model.families import find, is_causal
from ..model.offload import device_map
from ..model.peft_folder import find_adapter
from ..model.stored import check_names
from .call_lock import CallLock
from .encoder import Encoder, transformer_model
from .inference import TEXT_ONLY
from .pair import load_pair
from .peft_merge import check_not_quantised, with_adapter
from .precision import loading_options, quantise
from .prefix import steady_length
from .shapes import LENGTHS, Shapes
from .shortcuts import attend_both_ways, sees_left_only
from .sources import config_place, find_source, hub_commit, is_pair, read_config, transformer_folder
from .tokenization import check_length, prepare_tokenizer, token_limit
from .transformer import CheckedTransformer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PretrainedConfig


DTYPES = {
    "auto": "auto",
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}


_LOADING = CallLock()
"""Transformers changes classes of its own while it builds a model, and two threads that do so at a
time leave them changed: tied weights are no longer tied in whatever is loaded next
(huggingface/transformers#44940)."""


def load(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    max_length: int | None = None,
    pooling: str | None = None,
    bidirectional: bool = False,
    prompts: dict[str, str] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    from_disk: bool = False,
) -> Encoder:
    """Load a Sentence Transformers folder, or make an encoder of a bare Hugging Face model.

    A Sentence Transformers folder keeps its own pooling, prompts, normalisation and length. A bare
    model gets last-token pooling and an EOS at the end of every text if it is causal (section 4.2),
    mean pooling if it is not, and unit length. Of a folder of `pair`, queries run one encoder and
    documents the other. A LoRA adapter is merged into its base, and gets the
    modules of that where it brings none.

    Args:
        name: Folder, name on the hub, or effir-mini, which comes with the package.
        device: As in torch; None takes an accelerator where there is one.
        dtype: How weights are held: one of `DTYPES`; None and auto are the checkpoint's own.
        precision: How an encoder that is only to encode computes, instead of `dtype`: one of
            `PRECISIONS`, such as auto for the fastest that the hardware has.
        compile: Run one warm-up for each of a few batch shapes with `torch.compile`; worth it for
            long work. Minutes on a CPU. Texts are padded, so not for lengths at which frequencies
            depend on the length.
        max_length: In tokens, at most the model's positions; None keeps the model's own.
        pooling: Of a bare model only, as in `Pooling`.
        bidirectional: Let every token of a bare decoder attend to those after it as well (DRAMA,
            arXiv 2502.18460), with mean pooling unless `pooling` says otherwise. It was trained
            without, so train it next. The config, and so every folder that is written, keeps it.
        prompts: Name -> text put in front, for a bare model or over the folder's own.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run modelling code that lies in the folder.
        from_disk: Leave layers on disk and read each when it runs: for a model that is larger than
            memory, to `analyze` and `reconstruct`, on an accelerator as well.

    Raises:
        FileNotFoundError: The folder, the model on the hub or a weight file is missing.
        ValueError: The family is not supported, a file is truncated, an argument is unknown, or an
            adapter is not of its base, or `bidirectional` means nothing to the model.
        ImportError: A precision or an adapter needs a package that is not installed.
        RuntimeError: An adapter, merged, computes something else.
    """
    options = _precision_options(dtype, precision, device)
    if max_length is not None:
        check_length(max_length)
    finish: dict[str, Any] = {"max_length": max_length, "precision": precision, "compile": compile}
    if is_pair(name, revision):
        if pooling is not None or bidirectional or from_disk:
            raise ValueError(
                f"{name} holds two finished encoders; leave pooling, bidirectional and from_disk "
                "out, or load one of them alone"
            )
        with _LOADING:
            pair = load_pair(
                _downloaded(str(name), revision),
                model_kwargs={**options, "use_safetensors": True},
                device=device,
                prompts=prompts,
                trust_remote_code=trust_remote_code,
            )
        for tower in pair.eval().towers():
            _finish(tower, **finish)
        return pair
    name = find_source(name)
    check_tokenizer(transformer_folder(Path(name)))
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    model_kwargs: dict[str, Any] = {**options, "use_safetensors": True}
    if from_disk:
        _check_only_read(name, precision, compile)
        import_extra("accelerate", "train")
        config = read_config(name, **shared)
        check_names(config, Path(name))
        device = device or get_device_name()
        model_kwargs["device_map"] = device_map(config, device)
    modules = {"pooling": pooling, "bidirectional": bidirectional}
    with _LOADING:
        encoder = _encoder(name, modules, model_kwargs, shared, device=device, prompts=prompts)
    config = transformer_model(encoder).config
    # Transformers 5.23 no longer writes it down, and before, a merged adapter had its base's
    config._commit_hash = hub_commit(name, revision)
    return _finish(encoder, **finish, from_disk=from_disk)


def _finish(
    encoder: Encoder,
    *,
    max_length: int | None,
    precision: str | None,
    compile: bool,
    from_disk: bool = False,
) -> Encoder:
    """Make an encoder of one transformer ready for use."""
    if max_length is not None:
        token_limit(encoder, max_length)
        encoder.max_seq_length = max_length
    if precision is not None:
        quantise(transformer_model(encoder), precision)
    encoder.eval()
    if not from_disk:  # two forward passes, in which every layer would be read
        encoder.find_shortcuts()
    if compile:
        _compile(encoder)
    return encoder


def _check_only_read(name: str, precision: str | None, compile: bool) -> None:
    """Refuse to leave on disk what is not as it lies there."""
    if precision is not None or compile:
        raise ValueError(
            "from_disk reads each layer when it runs, to analyze and reconstruct; leave precision "
            "and compile out, or load all of the model"
        )
    if find_adapter(config_place(name)) is not None:
        raise ValueError(
            f"{name} is an adapter, which is merged in memory; load all of it, save it, and give "
            "that folder"
        )


def loaded(model: SentenceTransformer | str | Path) -> SentenceTransformer:
    """Return an encoder as it is, and load what a folder or name stands for.

    Raises:
        FileNotFoundError: As of `load`.
        ValueError: As of `load`.
    """
    return load(model) if isinstance(model, str | Path) else model


def _encoder(
    name: str,
    modules: dict[str, Any],
    model_kwargs: dict[str, Any],
    shared: dict[str, Any],
    **options: Any,
) -> Encoder:
    with blamed_on_config(config_place(name)):
        if _is_sentence_transformer(name, shared["revision"]):
            if modules["pooling"] is not None:
                raise ValueError(
                    f"{name} brings its own pooling; leave pooling={modules['pooling']!r} out, or "
                    "load the bare transformer it was made from"
                )
            if modules["bidirectional"] and is_causal(read_config(name, **shared)):
                raise ValueError(
                    f"{name} is an encoder that was made with attention to the left; leave "
                    "bidirectional=True out, or load the bare transformer it was made from"
                )
            place = _place_of_modules(name, shared["revision"])
            encoder = Encoder(place, model_kwargs=model_kwargs, **options, **shared)
            _check_transformer(encoder, name)
            if place != name:
                model = transformer_model(encoder)
                model.name_or_path = model.config.name_or_path = name
            return encoder
        find(read_config(name, **shared))
        adapter = find_adapter(name, revision=shared["revision"])
        if adapter is None:
            made = _bare_modules(name, {**model_kwargs, **shared}, shared, **modules)
            return Encoder(modules=made, similarity_fn_name="cosine", **options)
    check_not_quantised(read_config(name, **shared), model_kwargs, adapter)
    shared = {**shared, "revision": adapter.base_revision}
    base = _encoder(find_source(adapter.base), modules, model_kwargs, shared, **options)
    return with_adapter(base, adapter)


def _place_of_modules(name: str, revision: str | None) -> str:
    """Return a folder or a hub name as it is, or the copy here of an adapter on the hub.

    Without a config.json beside them, the files of its tokenizer are only found in a folder.
    """
    if Path(name).is_dir() or find_adapter(name, revision=revision) is None:
        return name
    return str(_downloaded(name, revision))


def _downloaded(name: str, revision: str | None) -> Path:
    """Return a folder as it is, or the copy here of what is on the hub."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    ignored = ["*.bin", "*.pt", "*.onnx"]
    return Path(snapshot_download(name, revision=revision, ignore_patterns=ignored))


def _precision_options(
    dtype: str | None, precision: str | None, device: str | None
) -> dict[str, Any]:
    if dtype is not None and precision is not None:
        raise ValueError(
            f"dtype={dtype!r} and precision={precision!r} are two answers to one question; give "
            "precision to encode, dtype to compress or train"
        )
    if precision is not None:
        return loading_options(precision, device)
    dtype = dtype or "auto"
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; choose from {', '.join(DTYPES)}")
    return {"dtype": DTYPES[dtype]}


def _compile(encoder: Encoder) -> None:
    """Compile the model for every padded length that its texts can have."""
    shapes = Shapes(batch_tokens=encoder.batch_tokens)
    limit = encoder.max_seq_length or encoder.tokenizer.model_max_length
    _check_padding(transformer_model(encoder).config, shapes, limit)
    encoder.shapes = shapes
    transformer_model(encoder).compile(dynamic=False)
    word = next(iter(encoder.tokenizer.get_vocab()))
    for length in encoder.shapes.lengths(limit):
        encoder.encode([" ".join([word] * length)])


def _check_padding(config: PretrainedConfig, shapes: Shapes, limit: int) -> None:
    """Refuse to pad texts to lengths at which the model computes something else."""
    longest, steady = shapes.tokens(limit), steady_length(config)
    if longest > steady:
        fitting = [length for length in LENGTHS if length <= steady]
        shorter = f"give max_length={fitting[-1]} at most, or " if fitting else ""
        raise ValueError(
            f"compile=True pads texts of up to {limit} tokens to {longest}, and the rotary "
            f"frequencies of this {config.model_type} change beyond {steady}; {shorter}load it "
            "without compile"
        )


def _is_sentence_transformer(name: str, revision: str | None) -> bool:
    if Path(name).is_dir():
        return (Path(name) / "modules.json").is_file()
    from sentence_transformers.util import is_sentence_transformer_model

    return is_sentence_transformer_model(name, revision=revision)


def _check_transformer(encoder: Encoder, name: str) -> None:
    if not isinstance(encoder[0], Transformer):
        raise ValueError(
            f"the first module of {name} is {type(encoder[0]).__name__}, which has no transformer "
            "layers to prune; choose a model that starts with a Transformer module"
        )


def _bare_modules(
    name: str,
    model_kwargs: dict[str, Any],
    shared: dict[str, Any],
    *,
    pooling: str | None,
    bidirectional: bool,
) -> list[torch.nn.Module]:
    transformer: Any = CheckedTransformer(
        name,
        model_kwargs=model_kwargs,
        processor_kwargs=dict(shared),
        config_kwargs=dict(shared),
        modality_config=TEXT_ONLY,
        module_output_name="token_embeddings",
    )
    if bidirectional:
        attend_both_ways(transformer.model)
    pooling = pooling or ("lasttoken" if sees_left_only(transformer.model) else "mean")
    prepare_tokenizer(transformer.tokenizer, append_eos=pooling == "lasttoken")
    dimension = transformer.get_embedding_dimension()
    return [transformer, Pooling(dimension, pooling_mode=pooling), Normalize()]
