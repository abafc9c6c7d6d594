"""What every token's MLP outputs do to a loss: its gradient behind each MLP, from one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ..encoder.encoder import transformer_model
from ..model.families import find
from ..model.hooks import masked, token_mask, without_dropout
from ..model.surgery import model_layers
from ..progress import progress_bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

    from ..model.plan import PruningPlan

Batch = Mapping[str, torch.Tensor]
Loss = Callable[[list[torch.Tensor]], torch.Tensor]
"""Takes the vectors of a group of examples, a column each (queries, positives, negatives), and
returns a number."""
_TOKENS = 1024
"""Padded tokens that gradients are taken of at once."""


def sensitivity(
    encoder: SentenceTransformer,
    plan: PruningPlan,
    groups: Sequence[Sequence[Batch]],
    loss: Loss,
    *,
    show_progress: bool = False,
) -> dict[tuple[int, int], Tensor]:
    """Return the squared norm of a loss's gradient with respect to what each MLP adds.

    The weights neither change nor get gradients. Memory is that of training on one group.

    Args:
        encoder: Whose model is run, without dropout.
        plan: Sublayers that are gone.
        groups: Of each, the columns as model inputs; batches are numbered through all groups.
        loss: What is followed.
        show_progress: Draw a progress bar.

    Returns:
        (layer, batch) -> what each token that is no padding counts for, (tokens,), fp32.

    Raises:
        RuntimeError: A projection did not run, or ran more than once for a batch.
        ValueError: Gradients are not finite, or zero.
    """
    counts: dict[tuple[int, int], Tensor] = {}
    place, model = 0, transformer_model(encoder)
    outputs = _outputs(model, plan)
    shown = progress_bar(groups, desc="Weighing tokens", unit="batch", shown=show_progress)
    with masked(model, plan), without_dropout(encoder), _frozen(encoder), torch.enable_grad():
        for group in shown:
            with _watched(outputs) as held:
                vectors = [encoder(dict(batch))["sentence_embedding"].float() for batch in group]
            loss(vectors).backward()
            for layer, runs in held.items():
                if len(runs) != len(group):
                    raise RuntimeError(
                        f"the MLP of layer {layer} ran {len(runs)} times for {len(group)} batches; "
                        "use a model whose layers all run once, and that is not compiled"
                    )
                for number, (batch, run) in enumerate(zip(group, runs, strict=True)):
                    gradient = run.grad[token_mask(batch).to(run.device)]
                    counts[layer, place + number] = gradient.float().square().sum(-1)
            place += len(group)
    _check(counts, list(outputs))
    return counts


def weigh_tokens(
    encoder: SentenceTransformer,
    plan: PruningPlan,
    batches: Sequence[Batch],
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> dict[tuple[int, int], Tensor]:
    """Return how far an error of each MLP at each token moves the text's vector.

    That is the norm of the gradient of `v . r`, v being the text's vector of length one and r a
    random direction: about the norm of the Jacobian of v. The squared error of v asks for its
    square, by which a few tokens count for most, and what is fitted on them holds less on other
    texts. No query and no label is read. Memory is that of training on 1,024 tokens, or on one text
    that is longer.

    Args:
        encoder: Whose model is run, without dropout.
        plan: Sublayers that are gone.
        batches: Model inputs.
        seed: Of the random directions.
        show_progress: Draw a progress bar.

    Returns:
        (layer, batch) -> what each token that is no padding counts for, (tokens,), fp32.

    Raises:
        RuntimeError: A projection did not run, or ran more than once for a batch.
        ValueError: Gradients are not finite, or zero.
    """
    parts = [list(_parts(batch)) for batch in batches]
    found = sensitivity(
        encoder,
        plan,
        [[part] for batch in parts for part in batch],
        random_direction(seed),
        show_progress=show_progress,
    )
    layers = {layer for layer, _ in found}
    counts, start = {}, 0
    for place, batch in enumerate(parts):
        for layer in layers:
            squares = [found[layer, start + number] for number in range(len(batch))]
            counts[layer, place] = torch.cat(squares).sqrt()
        start += len(batch)
    return counts


def random_direction(seed: int) -> Loss:
    """Return a loss that pulls every vector into a random direction of its own."""
    generator = torch.Generator().manual_seed(seed)

    def pulled(vectors: list[torch.Tensor]) -> torch.Tensor:
        units = functional.normalize(torch.cat(vectors), dim=-1)
        return (units * torch.randn(units.shape, generator=generator).to(units)).sum()

    return pulled


def _outputs(model: Any, plan: PruningPlan) -> dict[int, nn.Module]:
    """Return layer -> output projection of its MLP, where that is left."""
    architecture = find(model.config)
    layers = model_layers(model, architecture)
    return {
        layer: layers[layer].get_submodule(architecture.mlp_output)
        for layer, width in enumerate(plan.mlp_widths)
        if width
    }


def _parts(batch: Batch) -> Iterator[Batch]:
    rows, length = batch["input_ids"].shape
    step = max(1, _TOKENS // length)
    for start in range(0, rows, step):
        yield {
            key: value[start : start + step] if torch.is_tensor(value) else value
            for key, value in batch.items()
        }


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Switch the weights' gradients off, then give every weight its own back."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


def _check(counts: Mapping[tuple[int, int], Tensor], layers: Sequence[int]) -> None:
    for layer in layers:
        total = sum(float(count.sum()) for (at, _), count in counts.items() if at == layer)
        if total == 0:
            raise ValueError(
                f"the gradients behind the MLP of layer {layer} are zero; give examples whose "
                "documents differ"
            )
        if not total < float("inf"):
            raise ValueError(
                f"the gradients behind the MLP of layer {layer} are not finite; load the model in "
                "bf16 or fp32, and check its weights"
            )


@contextmanager
def _watched(outputs: Mapping[int, nn.Module]) -> Iterator[dict[int, list[Any]]]:
    """Keep every output of some projections, and let gradients start there and be kept."""
    held: dict[int, list[Any]] = {layer: [] for layer in outputs}

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_(True)
            output.retain_grad()
            held[layer].append(output)
            return output

        return hook

    handles = [x.register_forward_hook(keep(layer)) for layer, x in outputs.items()]
    try:
        yield held
    finally:
        for handle in handles:
            handle.remove()
