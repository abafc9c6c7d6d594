"""Run by torchrun: one backward pass of the retrieval loss, its batch shared by all processes."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch
import torch.distributed
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from effir_integrations import Encoder, load
from effir_integrations.training.launch import is_main_process, processes
from effir_integrations.training.losses import LossTerms, RetrievalLoss

BATCH = 8
TERMS = LossTerms(temperature=0.1, teacher_weight=0.5)


def columns(start: int, stop: int) -> list[list[str]]:
    """Return queries, positives and negatives of a part of the batch."""
    return [
        [
            f"w{(7 * row + 3 * column) % 60} w{row + column} w{5 * column}"
            for row in range(start, stop)
        ]
        for column in range(3)
    ]


def gradients(encoder: Encoder, mini_batch_size: int | None) -> dict[str, torch.Tensor]:
    """Return the gradients that every process ends up with, and the mean of their losses."""
    rank = torch.distributed.get_rank() if processes() > 1 else 0
    share = BATCH // processes()
    start, stop = rank * share, (rank + 1) * share
    features = [encoder.preprocess(texts) for texts in columns(start, stop)]
    scores = torch.tensor([[0.1 * row, 0.3] for row in range(start, stop)])
    model = DistributedDataParallel(encoder) if processes() > 1 else encoder
    loss = RetrievalLoss(model, TERMS, mini_batch_size=mini_batch_size)
    total = torch.stack(list(loss(features, scores).values())).sum()
    total.backward()
    value = total.detach().clone()
    if processes() > 1:
        torch.distributed.all_reduce(value)
    found = {name: x.grad for name, x in encoder.named_parameters() if x.grad is not None}
    return {**found, "loss": value / processes()}


def main(base: str, out: str, mini_batch_size: int | None) -> None:
    """Write the gradients."""
    torch.set_num_threads(1)
    if processes() > 1:
        torch.distributed.init_process_group("gloo")
    found = gradients(load(base, device="cpu"), mini_batch_size)
    if is_main_process():
        save_file(found, Path(out))
    if processes() > 1:
        # DDP must die before its group: one that outlives it ends the group's threads while holding
        # the interpreter lock, which they may be waiting for to let go of a last tensor
        gc.collect()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) or None)
