"""Write a pruned encoder as an ordinary Sentence Transformers folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.util import batch_to_device

from ..encoder.encoder import Encoder, transformer_model
from ..encoder.history import history_of, write_history
from ..encoder.inference import TEXT_ONLY
from ..encoder.loading import find_folder, load, transformer_folder
from ..encoder.tokenization import (
    prepare_tokenizer,
    save_tokenizer,
    table_positions,
    texts_without_tokens,
)
from ..files import claimed, inside, new_folder, read_json, write_json
from ..model.apply import apply, check_code, least_cosine
from ..model.config_file import check_tokenizer, read_modules
from ..model.families import is_causal
from ..model.identity import BaseIdentity
from ..model.masking import masked
from ..model.plan import PruningPlan
from ..model.shards import check_file_finite

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PROBES = (
    "pruned",
    "",
    "a sentence of some length, so that padding is in play for the shorter ones of this batch",
    "Größe, 大小, حجم, размер",
    "the longest of them " * 80,
)
"""Texts whose vectors must be the same, bit for bit, before and after saving."""


def export(
    encoder: SentenceTransformer, plan: PruningPlan, out: str | Path, *, force: bool = False
) -> Encoder:
    """Apply a plan to an encoder and write the result as a Sentence Transformers folder.

    Pooling, prompts, normalisation and length stay the base's. The folder holds stock modules only,
    the sliced tensors under the base's names, a modelling file for places without this package, the
    plan, and a model card. It is loaded again and compared, bit for bit, before it gets its name.

    Args:
        encoder: The base, loaded with `load`; it is used up and holds the pruned model afterwards.
        plan: Made for this base.
        out: Folder to write; must be new or empty unless `force`.
        force: Replace what is there, at the end and in one step.

    Returns:
        The encoder as loaded from the written folder.

    Raises:
        FileExistsError: `out` holds something and `force` was not given, or files of others.
        ValueError: The plan is of another base, `out` holds the base or lies in it, or another
            process writes there.
        OSError: The disk is full.
        RuntimeError: The reloaded folder gives other vectors; nothing is left behind.
    """
    out = Path(out)
    with claimed(out, force=force, sources=[source_of(encoder)]):
        plan.base.check_same(BaseIdentity.of(transformer_model(encoder)))
        check_code(transformer_model(encoder))
        with masked(transformer_model(encoder), plan):
            expected = probe(encoder)
        encoder[0].model = apply(transformer_model(encoder), plan)
        model = transformer_model(encoder)
        check_sliced_equals_masked(expected, probe(encoder), model.dtype)
        return save(encoder, history_of(plan), out, force=force)


def source_of(encoder: SentenceTransformer) -> str:
    """Return the folder, or the name on the hub, that an encoder was loaded from."""
    return str(transformer_model(encoder).config.name_or_path)


def save(
    encoder: SentenceTransformer, history: Mapping[str, Any], out: Path, *, force: bool = False
) -> Encoder:
    """Write a finished encoder and its history as a folder, and return what loads from there.

    Raises:
        FileExistsError: `out` holds something and `force` was not given.
        OSError: The disk is full.
        RuntimeError: The reloaded folder gives other vectors; nothing is left behind.
    """
    with new_folder(out, force=force, needed_bytes=saved_bytes(encoder)) as partial:
        encoder.save_pretrained(str(partial), create_model_card=False)
        save_tokenizer(encoder.tokenizer, partial)
        write_history(partial, history, encoder._model_card_text)
        reloaded = load(partial, device=str(encoder.device), dtype="auto")
        check_same_vectors(encoder, reloaded)
    model = transformer_model(reloaded)
    # it was loaded from where the folder lay before it got its name
    model.name_or_path = model.config.name_or_path = reloaded.tokenizer.name_or_path = str(out)
    return reloaded


def saved_bytes(encoder: SentenceTransformer) -> int:
    """Return about how many bytes `save` writes, rather too many."""
    weights = sum(tensor.nbytes for tensor in transformer_model(encoder).state_dict().values())
    return int(weights * 1.05) + 20_000_000


def probe(encoder: SentenceTransformer) -> torch.Tensor:
    """Return the vectors of those `PROBES` that hold a token, by one plain forward pass.

    One batch of many tokens: products of few rows take kernels whose last bit depends on where in
    memory the weights lie, and what is saved must come back bit for bit.

    Returns:
        (texts, dimension), fp32.
    """
    encoder.eval()
    silent = texts_without_tokens(encoder, PROBES)
    texts = [text for place, text in enumerate(PROBES) if place not in silent]
    with torch.inference_mode():
        features = batch_to_device(encoder.preprocess(texts), encoder.device)
        vectors: torch.Tensor = encoder(features)["sentence_embedding"]
    return vectors.float()


def check_sliced_equals_masked(
    masked_vectors: torch.Tensor, sliced_vectors: torch.Tensor, dtype: torch.dtype
) -> None:
    """Compare what the base gives with hooks in place of the plan with what the sliced model gives.

    Slicing only changes the order of sums: rounding of the working precision is allowed, no more.

    Raises:
        RuntimeError: They differ by more.
    """
    cosine = torch.nn.functional.cosine_similarity(masked_vectors, sliced_vectors, dim=-1)
    least = least_cosine(dtype)
    if not bool((cosine >= least).all()):
        raise RuntimeError(
            f"the sliced model gives other vectors than the masked base (cosine down to "
            f"{cosine.min().item():.6f}, at least {least} is rounding); nothing was written, "
            "please report this with the model's name"
        )


def check_same_vectors(before: SentenceTransformer, after: SentenceTransformer) -> None:
    """Compare the vectors of `PROBES` bit for bit.

    Raises:
        RuntimeError: They differ.
    """
    first, second = probe(before), probe(after)
    if not torch.equal(first, second):
        difference = (first - second).abs().max().item()
        raise RuntimeError(
            f"the saved folder gives other vectors than the model in memory (largest difference "
            f"{difference:.3g}); nothing was kept, please report this with the model's name"
        )


def export_from_disk(
    source: str | Path,
    plan: PruningPlan,
    out: str | Path,
    *,
    force: bool = False,
    show_progress: bool = False,
) -> Path:
    """Write a pruned folder from a checkpoint on disk, tensor by tensor, without building a model.

    Memory stays far below the model's size. The written tensors are checked against the source; the
    model is not run.

    Args:
        source: Folder of a safetensors checkpoint, bare or Sentence Transformers.
        plan: Made for this base.
        out: Folder to write; must be new or empty unless `force`.
        force: Replace what is there, at the end and in one step.
        show_progress: Draw a bar over the bytes.

    Raises:
        FileExistsError: `out` holds something and `force` was not given, or files of others.
        ValueError: The plan is of another base, a shard is truncated, a weight is NaN or infinite,
            a file of the source lies outside of it, `out` holds the source or lies in it, or
            another process writes there.
        OSError: The disk is full.
    """
    from ..model.rewrite import check_plan_fits_disk, rewrite_checkpoint, rewritten_bytes

    source, out = find_folder(source), Path(out)
    weights = transformer_folder(source)
    check_tokenizer(weights)
    with ExitStack() as stack:
        stack.enter_context(claimed(out, force=force, sources=[source]))
        check_plan_fits_disk(weights, plan)
        needed = rewritten_bytes(weights, plan) + 20_000_000
        partial = stack.enter_context(new_folder(out, force=force, needed_bytes=needed))
        rewrite_checkpoint(weights, plan, partial, show_progress=show_progress)
        if (source / "modules.json").is_file():
            _copy_sidecars(source, weights, partial)
        else:
            _write_sidecars(source, partial)
        card = source / "README.md"
        base_card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
        write_history(partial, history_of(plan), base_card)
    return out


_COPIED = ("sentence_bert_config.json", "config_sentence_transformers.json")


def _copy_sidecars(source: Path, weights: Path, out: Path) -> None:
    """Copy tokenizer, prompts and later modules; the transformer goes to the root."""
    from transformers import AutoTokenizer

    for name in _COPIED:
        for folder in (weights, source):
            if (folder / name).is_file():
                shutil.copyfile(inside(folder, name), out / name)
    modules = read_modules(source)
    modules[0]["path"] = ""
    for module in modules[1:]:
        if module["path"]:
            folder = inside(source, module["path"])
            for path in folder.rglob("*"):
                inside(source, path.relative_to(source))
                if path.suffix == ".safetensors":
                    check_file_finite(path)
            shutil.copytree(folder, out / module["path"])
    write_json(out / "modules.json", modules)
    _write_limit(AutoTokenizer.from_pretrained(weights), _table_positions(weights), out)


def _table_positions(weights: Path) -> int | None:
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        return table_positions(AutoModel.from_config(AutoConfig.from_pretrained(weights)))


def _write_limit(tokenizer: Any, positions: int | None, out: Path) -> None:
    """Save a tokenizer, and the limit that goes before its own, with no more than `positions`."""
    if positions is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    save_tokenizer(tokenizer, out)
    path = out / _COPIED[0]
    settings = read_json(path, "settings of the Transformer module") if path.is_file() else {}
    stated = settings.get("max_seq_length")
    if positions is not None and stated is not None and stated > positions:
        write_json(path, {**settings, "max_seq_length": positions})


def _write_sidecars(source: Path, out: Path) -> None:
    """Write what makes a bare checkpoint a Sentence Transformers folder, as `load` would."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(source)
    pooling = "lasttoken" if is_causal(config) else "mean"
    tokenizer = AutoTokenizer.from_pretrained(source)
    prepare_tokenizer(tokenizer, append_eos=pooling == "lasttoken")
    positions = _table_positions(source) or getattr(config, "max_position_embeddings", None)
    _write_limit(tokenizer, positions, out)
    modules = [("", f"{Transformer.__module__}.{Transformer.__name__}")]
    stock = (Pooling(config.hidden_size, pooling_mode=pooling), Normalize())
    for index, module in enumerate(stock, start=1):
        name = f"{index}_{type(module).__name__}"
        (out / name).mkdir()
        module.save(str(out / name))
        modules.append((name, f"{type(module).__module__}.{type(module).__name__}"))
    listing = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(modules)
    ]
    write_json(out / "modules.json", listing)
    write_json(
        out / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": TEXT_ONLY,
            "module_output_name": "token_embeddings",
        },
    )
    write_json(
        out / "config_sentence_transformers.json",
        {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "prompts": {}},
    )
