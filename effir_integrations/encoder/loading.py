"""Load an encoder: a Sentence Transformers folder, or a bare Hugging Face model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoConfig

from ..model.config_file import blamed_on_config, check_folder, check_tokenizer
from ..model.families import find
from ..model.safetensors_files import check_checkpoint
from .encoder import Encoder, transformer_model
from .inference import TEXT_ONLY
from .mini import MINI, mini_path
from .peft_folder import CONFIG as ADAPTER
from .peft_folder import blamed_on_base, check_merged, find_adapter
from .peft_merge import check_not_quantised, with_adapter
from .precision import loading_options, quantise
from .prefix import steady_length
from .shapes import LENGTHS, Shapes
from .shortcuts import sees_left_only
from .tokenization import check_length, prepare_tokenizer, token_limit
from .transformer import CheckedTransformer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..model.families import Architecture

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

DTYPES = {
    "auto": "auto",
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}


def load(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    max_length: int | None = None,
    pooling: str | None = None,
    prompts: dict[str, str] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load a Sentence Transformers folder, or make an encoder of a bare Hugging Face model.

    A Sentence Transformers folder keeps its own pooling, prompts, normalisation and length. A bare
    model gets last-token pooling and an EOS at the end of every text if it is causal (section 4.2),
    mean pooling if it is not, and unit length. A LoRA adapter is merged into its base, and gets the
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
        prompts: Name -> text put in front, for a bare model or over the folder's own.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run modelling code that lies in the folder.

    Raises:
        FileNotFoundError: The folder, the model on the hub or a weight file is missing.
        ValueError: The family is not supported, a file is truncated, an argument is unknown, or an
            adapter is not of its base.
        ImportError: A precision or an adapter needs a package that is not installed.
        RuntimeError: An adapter, merged, computes something else.
    """
    options = _precision_options(dtype, precision, device)
    if max_length is not None:
        check_length(max_length)
    name = find_source(name)
    check_tokenizer(transformer_folder(Path(name)))
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    model_kwargs: dict[str, Any] = {**options, "use_safetensors": True}
    encoder = _encoder(name, pooling, model_kwargs, shared, device=device, prompts=prompts)
    if max_length is not None:
        token_limit(encoder, max_length)
        encoder.max_seq_length = max_length
    if precision is not None:
        quantise(transformer_model(encoder), precision)
    encoder.eval()
    encoder.find_shortcuts()
    if compile:
        _compile(encoder)
    return encoder


def _encoder(
    name: str,
    pooling: str | None,
    model_kwargs: dict[str, Any],
    shared: dict[str, Any],
    **options: Any,
) -> Encoder:
    with blamed_on_config(config_place(name)):
        if _is_sentence_transformer(name, shared["revision"]):
            if pooling is not None:
                raise ValueError(
                    f"{name} brings its own pooling; leave pooling={pooling!r} out, or load the "
                    "bare transformer it was made from"
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
            modules = _bare_modules(name, pooling, {**model_kwargs, **shared}, shared)
            return Encoder(modules=modules, similarity_fn_name="cosine", **options)
    check_not_quantised(read_config(name, **shared), model_kwargs, adapter)
    shared = {**shared, "revision": adapter.base_revision}
    base = _encoder(find_source(adapter.base), pooling, model_kwargs, shared, **options)
    return with_adapter(base, adapter)


def _place_of_modules(name: str, revision: str | None) -> str:
    """Return a folder or a hub name as it is, or the copy here of an adapter on the hub.

    Without a config.json beside them, the files of its tokenizer are only found in a folder.
    """
    if Path(name).is_dir() or find_adapter(name, revision=revision) is None:
        return name
    from huggingface_hub import snapshot_download

    return snapshot_download(name, revision=revision, ignore_patterns=["*.bin", "*.pt", "*.onnx"])


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


def find_architecture(
    name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Architecture:
    """Return the table row of a model by its config alone, before its weights are read.

    Raises:
        ValueError: The family is not supported, or the config is damaged.
        FileNotFoundError: There is no such model, here or on the hub, or a weight file is missing.
    """
    source = find_source(name)
    return find(read_config(source, revision=revision, trust_remote_code=trust_remote_code))


def read_config(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PretrainedConfig:
    """Return the config of what `find_source` returned.

    Raises:
        FileNotFoundError: It is neither a folder here nor a model on the hub that can be read.
        ValueError: The config is damaged.
    """
    folder, place = Path(source), config_place(source)
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        adapter = find_adapter(place, revision=revision)
        if adapter is None:
            with blamed_on_config(place):
                return AutoConfig.from_pretrained(place, **shared)
    except OSError as error:
        if folder.is_dir():
            raise
        raise FileNotFoundError(
            f"there is no folder {folder.absolute()}, and {_hub_answer(source, error)}; give the "
            "folder that holds config.json, or a hub name"
        ) from error
    with blamed_on_base(adapter):
        base = find_source(adapter.base)
        config = read_config(
            base, revision=adapter.base_revision, trust_remote_code=trust_remote_code
        )
    adapter.check_config(config)
    return config


def config_place(source: str) -> Path | str:
    """Return the folder where the transformer's config or adapter lies, or a hub name as it is."""
    return transformer_folder(Path(source)) if Path(source).is_dir() else source


def _hub_answer(name: str, error: OSError) -> str:
    """Say in half a sentence why the hub gave no config."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    cause = error.__cause__
    if isinstance(cause, LocalEntryNotFoundError):
        return f"the hub could not be asked for a model {name}, of which nothing is kept here"
    if isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
        return f"no model {name} on the hub"
    return f"{name} on the hub cannot be read ({' '.join(str(error).split())[:200]})"


def find_source(model: str | Path) -> str:
    """Return the folder or hub name that a model is read from, before anything is loaded.

    The one place where effir-mini becomes a folder: that of the package, unless there is a local
    one of that name.

    Raises:
        FileNotFoundError: It is no model folder, or a weight file is missing.
        ValueError: A weight file or a JSON file is damaged, or a module lies outside of the folder.
    """
    name, path = str(model), Path(model)
    if name == MINI and not path.exists():
        path = mini_path()
        name = str(path)
    if not path.is_dir():
        if path.exists() or not _HUB_NAME.fullmatch(name):
            raise FileNotFoundError(
                f"{name} is no model folder (looked at {path.absolute()}); give the folder that "
                "holds config.json, or a hub name"
            )
        return name
    if not any((path / mark).is_file() for mark in ("config.json", "modules.json", ADAPTER)):
        raise FileNotFoundError(
            f"{name} holds neither config.json nor modules.json; give a Hugging Face or Sentence "
            "Transformers model folder"
        )
    place = transformer_folder(path)
    check_folder(path, place)
    adapter = find_adapter(place)
    if adapter is None:
        check_checkpoint(place)
        return name
    adapter.config(), adapter.weights()
    with blamed_on_base(adapter):
        find_source(adapter.base)
    return name


def find_folder(model: str | Path) -> Path:
    """Return the folder of a model whose files are read as they lie on disk.

    Raises:
        FileNotFoundError: It is no model folder, or a weight file is missing.
        ValueError: A weight file is damaged, a module lies outside of the folder, or the weights
            are to be merged with an adapter.
    """
    source = find_source(model)
    if not Path(source).is_dir():
        read_config(source)
        raise FileNotFoundError(
            f"{source} is a model on the hub and no folder here; download it first (hf download "
            f"{source} --local-dir FOLDER), and give the folder"
        )
    check_merged(source, transformer_folder(Path(source)))
    return Path(source)


def transformer_folder(path: Path) -> Path:
    """Return where config and weights lie: old Sentence Transformers folders use a subfolder."""
    marks = ("config.json", ADAPTER)
    nested = sorted(file.parent for mark in marks for file in path.glob(f"0_*/{mark}"))
    return path if any((path / mark).is_file() for mark in marks) or not nested else nested[0]


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
    name: str, pooling: str | None, model_kwargs: dict[str, Any], shared: dict[str, Any]
) -> list[torch.nn.Module]:
    transformer: Any = CheckedTransformer(
        name,
        model_kwargs=model_kwargs,
        processor_kwargs=dict(shared),
        config_kwargs=dict(shared),
        modality_config=TEXT_ONLY,
        module_output_name="token_embeddings",
    )
    pooling = pooling or ("lasttoken" if sees_left_only(transformer.model) else "mean")
    prepare_tokenizer(transformer.tokenizer, append_eos=pooling == "lasttoken")
    dimension = transformer.get_embedding_dimension()
    return [transformer, Pooling(dimension, pooling_mode=pooling), Normalize()]
