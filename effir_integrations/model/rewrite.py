"""Carry out a pruning plan or a trim on a checkpoint on disk, without loading the model.

What `apply` does to modules in memory is done to byte ranges here. Names and shapes come from the
same surgery, on a model of the meta device, which holds no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModel

from ..files import check_space
from .apply import config_of_cut, cut, shape_of_cut
from .families import Architecture, find, is_stock
from .identity import BaseIdentity
from .modeling import model_class, standalone_source, write_standalone
from .plan import PruningPlan
from .safetensors_files import StoredTensor
from .shards import PlannedTensor, Shard, check_written, lay_out, write_shards, written_bytes
from .stock import take_out_blocks
from .stored import StoredBase, checked_config
from .surgery import parameter_count
from .token_rows import check_rows, take_rows, token_table

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SHARD_BYTES = 5_000_000_000


def identity_on_disk(source: Path) -> BaseIdentity:
    """Return what `BaseIdentity.of` gives for the loaded base; one row a projection is read.

    A model of a family that is `stored_otherwise` is loaded.

    Raises:
        FileNotFoundError: The config, the weights or a shard are missing.
        ValueError: The family is not supported, a shard is truncated, or the tensors are not those
            of the base class, alone or inside a model with a head.
    """
    config = checked_config(source)
    if find(config).stored_otherwise:
        return BaseIdentity.of(AutoModel.from_pretrained(source), str(source))
    return StoredBase.read(source).identity()


def check_plan_fits_disk(source: Path, plan: PruningPlan) -> None:
    """Refuse a plan of another base before anything is loaded or written.

    Raises:
        FileNotFoundError: As `identity_on_disk`.
        ValueError: The plan is of another base, or as `identity_on_disk`.
    """
    plan.base.check_same(identity_on_disk(source))


def rewritten_bytes(source: Path, plan: PruningPlan, *, shard_bytes: int = SHARD_BYTES) -> int:
    """Return the exact size of all that `rewrite_checkpoint` writes, in bytes.

    Raises:
        FileNotFoundError: As `identity_on_disk`.
        ValueError: As `rewrite_checkpoint`.
    """
    return _output_bytes(*_planned_output(source, plan, shard_bytes))


def rewrite_checkpoint(
    source: Path,
    plan: PruningPlan,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    show_progress: bool = False,
) -> None:
    """Write the pruned checkpoint of a plan into an existing folder, without loading the model.

    Kept tensors are copied byte by byte, narrowed ones sliced one at a time, and those of dropped
    sublayers are never read. The result is what `apply` and `save_pretrained` give: config.json,
    the standalone modelling file, and the weights under the base class's names in the dtype they
    are stored in. A shape that the family's own class can hold needs no modelling file. It is read
    back and checked at the end.

    Args:
        source: Folder of a safetensors checkpoint, of the base class or of one with a head.
        plan: Made for this base.
        out: A folder that holds no checkpoint.
        shard_bytes: Size of the largest file, unless one tensor is larger.
        show_progress: Draw a bar over the bytes.

    Raises:
        FileNotFoundError: The config, the weights, a shard or `out` are missing.
        FileExistsError: `out` holds a checkpoint.
        ValueError: The plan is of another base, a weight is NaN or infinite, or as
            `identity_on_disk`.
        OSError: The disk is full.
        RuntimeError: What was written is not what should have been.
    """
    _check_empty(out)
    config, shards = _planned_output(source, plan, shard_bytes)
    _write(config, shards, out, show_progress=show_progress)


def rewrite_rows(
    source: Path, kept: torch.Tensor, out: Path, *, show_progress: bool = False
) -> tuple[int, int]:
    """Write a checkpoint with some of its token embeddings, without loading the model.

    All other tensors are copied byte by byte; the config names tokens by their new places.

    Args:
        source: Folder of a safetensors checkpoint, of the base class or of one with a head.
        kept: (tokens,) int64, ascending: the rows that stay.
        out: A folder that holds no checkpoint.
        show_progress: Draw a bar over the bytes.

    Returns:
        The numbers of parameters before and after.

    Raises:
        FileNotFoundError: The config, the weights, a shard or `out` are missing.
        FileExistsError: `out` holds a checkpoint.
        ValueError: As `check_rows` and `identity_on_disk`, or a weight is NaN or infinite.
        OSError: The disk is full.
        RuntimeError: What was written is not what should have been.
    """
    _check_empty(out)
    base = StoredBase.read(source)
    model = base.model
    check_rows(model, str(source))
    table, before = token_table(model).weight, parameter_count(model)
    table_name = next(name for name, x in model.named_parameters() if x is table)
    take_rows(model, kept)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    tensors = [
        PlannedTensor(
            name=name,
            dtype=stored.dtype,
            shape=shapes[name],
            source=stored,
            kept=kept if name == table_name else None,
        )
        for name, stored in base.tensors.items()
    ]
    model.config.architectures = [type(model).__name__]
    _write(model.config, lay_out(tensors, SHARD_BYTES), out, show_progress=show_progress)
    return before, parameter_count(model)


def _check_empty(out: Path) -> None:
    if not out.is_dir():
        raise FileNotFoundError(f"{out} is no folder; make it before writing into it")
    if (out / "config.json").exists() or any(out.glob("*.safetensors*")):
        raise FileExistsError(f"{out} holds a checkpoint already; give an empty folder")


def _write(
    config: PretrainedConfig, shards: list[Shard], out: Path, *, show_progress: bool
) -> None:
    check_space(out, _output_bytes(config, shards))
    config.save_pretrained(out)
    if not is_stock(config.model_type):
        write_standalone(find(config), out)
    write_shards(shards, out, show_progress=show_progress)
    check_written(shards, out)
    try:
        StoredBase.read(out)
    except (FileNotFoundError, ValueError) as error:
        raise RuntimeError(f"{out} does not fit its own config: {error}") from error


def _planned_output(
    source: Path, plan: PruningPlan, shard_bytes: int
) -> tuple[PretrainedConfig, list[Shard]]:
    if shard_bytes <= 0:
        raise ValueError(f"shard_bytes={shard_bytes} must be positive; {SHARD_BYTES:,} is usual")
    base = StoredBase.read(source)
    plan.base.check_same(base.identity())
    cut(base.model, plan)
    config, numbers = config_of_cut(base.model, plan), list(range(plan.base.layers))
    if is_stock(config.model_type):
        numbers = shape_of_cut(base.model, plan).kept
        take_out_blocks(base.model, find(config), numbers)
    else:
        config.architectures = [model_class(find(config).family).__name__]
    return config, lay_out(_planned_tensors(base, plan, numbers), shard_bytes)


def _output_bytes(config: PretrainedConfig, shards: list[Shard]) -> int:
    texts = [config.to_json_string()]
    if not is_stock(config.model_type):
        texts.append(standalone_source(find(config)))
    return written_bytes(shards) + sum(len(text.encode()) for text in texts)


def _planned_tensors(
    base: StoredBase, plan: PruningPlan, numbers: list[int]
) -> Iterator[PlannedTensor]:
    """Yield what the class declares, by comparing its shapes with the stored ones.

    Args:
        base: The checkpoint; its model has the shape of what is written.
        plan: What goes.
        numbers: What each of the model's layers is called in the checkpoint.
    """
    architecture = find(base.model.config)
    shapes = {name: tuple(x.shape) for name, x in base.model.state_dict().items()}
    neurons = _neurons_by_name(architecture, plan)
    before = {name: _numbered(name, architecture, numbers) for name in shapes}
    values = _values_by_name(architecture, plan, {before[x]: shape for x, shape in shapes.items()})
    for name, shape in shapes.items():
        old = before[name]
        stored = base.tensors.get(old)
        # a new bias has the dtype of its weight, and so has every other one
        like = stored or base.tensors.get(old.removesuffix("bias") + "weight")
        if like is None:
            continue  # a pooler that the base has not either
        if old in values or stored is None:
            new = values.get(old, torch.zeros(shape))
            yield PlannedTensor(name=name, dtype=like.dtype, shape=shape, values=new)
        elif shape == stored.shape:
            yield PlannedTensor(name=name, dtype=stored.dtype, shape=shape, source=stored)
        else:
            yield _sliced(name, shape, stored, *neurons[old])


def _numbered(name: str, architecture: Architecture, numbers: list[int]) -> str:
    """Return the name that a tensor has in the checkpoint."""
    prefix = f"{architecture.layers}."
    if not name.startswith(prefix):
        return name
    number, _, rest = name.removeprefix(prefix).partition(".")
    return f"{prefix}{numbers[int(number)]}.{rest}"


def _sliced(
    name: str, shape: tuple[int, ...], stored: StoredTensor, neurons: torch.Tensor, width: int
) -> PlannedTensor:
    """Plan a narrowed tensor; one that stacks several projections keeps the neurons of each."""
    pairs = zip(shape, stored.shape, strict=True)
    dimension = next(x for x, (new, old) in enumerate(pairs) if new != old)
    blocks = stored.shape[dimension] // width
    kept = torch.cat([neurons.cpu() + block * width for block in range(blocks)])
    return PlannedTensor(
        name=name, dtype=stored.dtype, shape=shape, source=stored, dimension=dimension, kept=kept
    )


def _neurons_by_name(
    architecture: Architecture, plan: PruningPlan
) -> dict[str, tuple[torch.Tensor, int]]:
    """Return the kept neurons and the width before, by every tensor name of a narrowed MLP."""
    return {
        f"{architecture.layers}.{layer}.{path}.{part}": (neurons, plan.base.mlp_widths[layer])
        for layer, neurons in plan.neurons.items()
        for path in (*architecture.mlp_inputs, architecture.mlp_output)
        for part in ("weight", "bias")
    }


def _values_by_name(
    architecture: Architecture, plan: PruningPlan, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """Return the refitted output projections by tensor name."""
    values = {}
    for layer, parts in plan.outputs.items():
        for part, tensor in parts.items():
            name = f"{architecture.layers}.{layer}.{architecture.mlp_output}.{part}"
            if tuple(tensor.shape) != shapes.get(name):
                raise ValueError(
                    f"the new MLP output {part} of layer {layer} has shape {tuple(tensor.shape)}, "
                    f"not {shapes.get(name)}; make the plan again"
                )
            values[name] = tensor
    return values
