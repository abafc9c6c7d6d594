"""Write a pruned encoder as an ordinary Sentence Transformers folder."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from ..encoder.encoder import Encoder, transformer_model
from ..encoder.folder import probe, save, source_of
from ..encoder.history import history_of, in_space, write_history
from ..encoder.inference import TEXT_ONLY
from ..encoder.loading import loaded
from ..encoder.sources import find_folder, transformer_folder
from ..encoder.space_record import Space, space_made_of
from ..encoder.tokenization import (
    prepare_tokenizer,
    save_tokenizer,
    table_positions,
)
from ..files import claimed, inside, new_folder, read_json, write_json
from ..model.apply import apply, check_code, least_cosine
from ..model.config_file import check_tokenizer, read_modules
from ..model.families import is_causal
from ..model.hooks import masked
from ..model.identity import BaseIdentity
from ..model.peft_folder import with_bases
from ..model.plan import PruningPlan
from ..model.shards import check_file_finite


def export(
    model: SentenceTransformer | str | Path,
    plan: PruningPlan,
    out: str | Path,
    *,
    space: Space | None = None,
    force: bool = False,
) -> Encoder:
    """Apply a plan to an encoder and write the result as a Sentence Transformers folder.

    Pooling, prompts, normalisation and length stay the base's. The folder holds stock modules only,
    the sliced tensors under the base's names, a modelling file for places without this package, the
    plan, and a model card. It is loaded again and compared, bit for bit, before it gets its name.

    Args:
        model: The base, or the folder or name to load it from; a loaded one is used up and holds
            the pruned model afterwards.
        plan: Made for this base.
        out: Folder to write; must be new or empty unless `force`.
        space: Of a base that is given loaded, as of `space_made_of`: what the folder says about
            whose documents its queries can search. None says nothing: weights in memory may be
            others than those that they were loaded from.
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
    source = source_of(model) if isinstance(model, SentenceTransformer) else model
    with claimed(out, force=force, sources=with_bases([source])):
        if space is None and not isinstance(model, SentenceTransformer):
            space = space_made_of(model)
        encoder = loaded(model)
        plan.base.check_same(BaseIdentity.of(transformer_model(encoder)))
        check_code(transformer_model(encoder))
        with masked(transformer_model(encoder), plan):
            expected = probe(encoder)
        encoder[0].model = apply(transformer_model(encoder), plan)
        dtype = transformer_model(encoder).dtype
        check_sliced_equals_masked(expected, probe(encoder), dtype)
        return save(encoder, in_space(history_of(plan), space), out, force=force)


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
        history = in_space(history_of(plan), space_made_of(source))
        write_history(partial, history, base_card)
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
