"""What every token's MLP outputs do to a loss: its gradient behind each MLP, from one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ..encoder.encoder import transformer_model
from ..model.hooks import masked, token_mask

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

    from ..model.plan import PruningPlan

Batch = Mapping[str, torch.Tensor]
Loss = Callable[[list[torch.Tensor]], torch.Tensor]
"""Takes the vectors of a group of examples, a column each (queries, positives, negatives), and
returns a number."""


def sensitivity(
    encoder: SentenceTransformer,
    outputs: Mapping[int, nn.Module],
    plan: PruningPlan,
    groups: Sequence[Sequence[Batch]],
    loss: Loss,
) -> dict[tuple[int, int], Tensor]:
    """Return the squared norm of a loss's gradient with respect to what each MLP adds.

    The weights neither change nor get gradients. Memory is that of training on one group.

    Args:
        encoder: In evaluation mode, its weights frozen.
        outputs: layer -> output projection of its MLP, where that is left.
        plan: Sublayers that are gone.
        groups: Of each, the columns as model inputs; batches are numbered through all groups.
        loss: What is followed.

    Returns:
        (layer, batch) -> what each token that is no padding counts for, (tokens,), fp32.

    Raises:
        RuntimeError: A projection did not run, or ran more than once for a batch.
        ValueError: Gradients are not finite, or zero.
    """
    counts: dict[tuple[int, int], Tensor] = {}
    place = 0
    with masked(transformer_model(encoder), plan), torch.enable_grad():
        for group in groups:
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


def _check(counts: Mapping[tuple[int, int], Tensor], layers: Sequence[int]) -> None:
    for layer in layers:
        total = sum(float(count.sum()) for (at, _), count in counts.items() if at == layer)
        if not 0 < total < float("inf"):
            raise ValueError(
                f"the gradients behind the MLP of layer {layer} are "
                f"{'zero' if total == 0 else 'not finite'}; give examples whose documents differ, "
                "or load the model in bf16 or fp32"
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
