"""Write a pruned encoder as an ordinary Sentence Transformers folder."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from ..encoder.encoder import Encoder, transformer_model
from ..encoder.folder import probe, save, source_of
from ..encoder.history import history_of, in_space, write_history
from ..encoder.loading import loaded
from ..encoder.sidecars import card_of, write_sidecars
from ..encoder.sources import find_folder, transformer_folder
from ..encoder.space_record import Space, space_made_of
from ..files import claimed, new_folder
from ..model.apply import apply, check_code, least_cosine
from ..model.config_file import check_tokenizer
from ..model.hooks import masked
from ..model.identity import BaseIdentity
from ..model.peft_folder import with_bases
from ..model.plan import PruningPlan


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
        write_sidecars(source, weights, partial)
        history = in_space(history_of(plan), space_made_of(source))
        write_history(partial, history, card_of(source))
    return out
