"""The one place that knows prompts, EOS, truncation and pooling of an encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tqdm.auto import tqdm

from . import modeling  # noqa: F401 - registers the pruned model types
from .architectures import find
from .checkpoint import check_checkpoint
from .tokenization import prepare_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .architectures import Architecture

DTYPES = {
    "auto": "auto",
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}
TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
"""Written into every folder: without it, a chat template in the tokenizer rewrites every text."""


class Encoder(SentenceTransformer):
    """A `SentenceTransformer` that also takes texts which are not valid Unicode."""

    def preprocess(self, inputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Tokenise after `clean_text`; everything else as in `SentenceTransformer`."""
        cleaned = [clean_text(text) if isinstance(text, str) else text for text in inputs]
        return super().preprocess(cleaned, *args, **kwargs)


def clean_text(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates by U+FFFD, which no tokenizer refuses."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def load(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: str = "auto",
    max_length: int | None = None,
    pooling: str | None = None,
    prompts: dict[str, str] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load a Sentence Transformers folder, or make an encoder of a bare Hugging Face model.

    A Sentence Transformers folder keeps its own pooling, prompts, normalisation and length. A bare
    model gets last-token pooling and an EOS at the end of every text if it is causal (section 4.2),
    mean pooling if it is not, and unit length.

    Args:
        name: Folder, or name on the hub.
        device: As in torch; None takes an accelerator where there is one.
        dtype: One of `DTYPES`; auto is the checkpoint's own.
        max_length: In tokens; None keeps the model's own.
        pooling: Of a bare model only, as in `Pooling`.
        prompts: Name -> text put in front, for a bare model or over the folder's own.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run modelling code that lies in the folder.

    Raises:
        FileNotFoundError: The folder or a weight file is missing.
        ValueError: The family is not supported, a file is truncated, or an argument is unknown.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; choose from {', '.join(DTYPES)}")
    name = str(name)
    _check_source(name)
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    model_kwargs: dict[str, Any] = {"dtype": DTYPES[dtype], "use_safetensors": True}
    if _is_sentence_transformer(name, revision):
        if pooling is not None:
            raise ValueError(
                f"{name} brings its own pooling; leave pooling={pooling!r} out, or load the bare "
                "transformer it was made from"
            )
        encoder = Encoder(name, device=device, prompts=prompts, model_kwargs=model_kwargs, **shared)
        _check_transformer(encoder, name)
    else:
        modules = _bare_modules(name, pooling, {**model_kwargs, **shared}, shared)
        encoder = Encoder(
            modules=modules, device=device, prompts=prompts, similarity_fn_name="cosine"
        )
    if max_length is not None:
        encoder.max_seq_length = max_length
    return encoder.eval()


def find_architecture(
    name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Architecture:
    """Return the table row of a model by its config alone, before its weights are read.

    Raises:
        ValueError: The family is not supported.
        FileNotFoundError: There is no such model folder, or a weight file is missing.
    """
    from transformers import AutoConfig

    _check_source(str(name))
    folder = transformer_folder(Path(name)) if Path(name).is_dir() else name
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    return find(AutoConfig.from_pretrained(folder, **shared))


def transformer_model(encoder: Any) -> PreTrainedModel:
    """Return the Transformers model inside a `SentenceTransformer`."""
    return encoder[0].model


_ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}


def role_prompt(encoder: SentenceTransformer, role: str) -> str:
    """Return the text that `encode_query` or `encode_document` puts in front; often none.

    Args:
        encoder: Its own prompts are looked up.
        role: `query` or `document`.
    """
    names = [name for name in _ROLES[role] if name in encoder.prompts]
    name = names[0] if names else encoder.default_prompt_name
    return (encoder.prompts[name] or "") if name is not None else ""


@contextmanager
def limited(encoder: SentenceTransformer, max_length: int | None) -> Iterator[None]:
    """Cut texts to `max_length` tokens while the context lasts."""
    limit = encoder.max_seq_length
    if max_length is not None:
        encoder.max_seq_length = min(max_length, limit) if limit else max_length
    try:
        yield
    finally:
        encoder.max_seq_length = limit


def token_batches(
    encoder: SentenceTransformer,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    batch_tokens: int = 8192,
    prompt: str | None = None,
    description: str = "texts",
    show_progress: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield model inputs of similar lengths, at most `batch_tokens` padded tokens each.

    Texts are cut to `max_length` tokens (None: the encoder's own) and sorted by length in windows,
    so memory does not grow with their number. Each batch holds `input_ids` and `attention_mask`
    (batch, tokens) on the encoder's device.
    """
    window = 256
    bar = tqdm(
        total=len(texts),
        desc=description,
        unit="text",
        delay=2,
        disable=not show_progress,
        leave=False,
    )
    with limited(encoder, max_length), bar:
        for start in range(0, len(texts), window):
            part = texts[start : start + window]
            for batch in _length_batches(encoder, part, batch_tokens, prompt):
                features = encoder.preprocess(batch, prompt=prompt)
                yield {
                    key: value.to(encoder.device) if torch.is_tensor(value) else value
                    for key, value in features.items()
                }
                bar.update(len(batch))


def _length_batches(
    encoder: SentenceTransformer, texts: Sequence[str], batch_tokens: int, prompt: str | None
) -> Iterator[list[str]]:
    limit = encoder.max_seq_length or encoder.tokenizer.model_max_length
    cleaned = [clean_text((prompt or "") + text) for text in texts]
    encoded = encoder.tokenizer(cleaned, truncation=True, max_length=limit)["input_ids"]
    order = sorted(range(len(texts)), key=lambda index: (len(encoded[index]), index))
    batch: list[str] = []
    for index in order:
        # ascending lengths: the newest text is the longest, so it sets the padded size
        if batch and (len(batch) + 1) * len(encoded[index]) > batch_tokens:
            yield batch
            batch = []
        batch.append(texts[index])
    yield batch


def _check_source(name: str) -> None:
    path = Path(name)
    if not path.is_dir():
        if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise FileNotFoundError(
                f"{name} is no model folder; give the folder that holds config.json, or a hub name"
            )
        return
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise FileNotFoundError(
            f"{name} holds neither config.json nor modules.json; give a Hugging Face or Sentence "
            "Transformers model folder"
        )
    check_checkpoint(transformer_folder(path))


def transformer_folder(path: Path) -> Path:
    """Return where config and weights lie: old Sentence Transformers folders use a subfolder."""
    nested = sorted(folder.parent for folder in path.glob("0_*/config.json"))
    return path if (path / "config.json").is_file() or not nested else nested[0]


def _is_sentence_transformer(name: str, revision: str | None) -> bool:
    if Path(name).is_dir():
        return (Path(name) / "modules.json").is_file()
    from sentence_transformers.util import is_sentence_transformer_model

    return is_sentence_transformer_model(name, revision=revision)


def _check_transformer(encoder: SentenceTransformer, name: str) -> None:
    if not isinstance(encoder[0], Transformer):
        raise ValueError(
            f"the first module of {name} is {type(encoder[0]).__name__}, which has no transformer "
            "layers to prune; choose a model that starts with a Transformer module"
        )


def _bare_modules(
    name: str, pooling: str | None, model_kwargs: dict[str, Any], shared: dict[str, Any]
) -> list[torch.nn.Module]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, **shared)
    architecture = find(config)
    pooling = pooling or ("lasttoken" if architecture.causal else "mean")
    transformer = Transformer(
        name,
        model_kwargs=model_kwargs,
        processor_kwargs=dict(shared),
        config_kwargs=dict(shared),
        modality_config=TEXT_ONLY,
        module_output_name="token_embeddings",
    )
    prepare_tokenizer(transformer.tokenizer, append_eos=pooling == "lasttoken")
    dimension = transformer.get_embedding_dimension()
    return [transformer, Pooling(dimension, pooling_mode=pooling), Normalize()]
