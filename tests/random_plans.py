"""Random pruning plans for random tiny encoders: what they take, and the folders they end in."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from random_encoders import ModelChoices, draw_model
from random_texts import words
from stored import tensors_of
from tiny import ON_DISK

from effir_integrations import Encoder, export, load
from effir_integrations.data.calibration import Calibration
from effir_integrations.model.hooks import masked
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.export import export_from_disk
from effir_integrations.pruning.methods import METHODS
from effir_integrations.pruning.reconstruct import reconstruct

TOLERANCE = 1e-5
"""In fp32, of the largest value: a sliced product adds in another order."""
TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "w8", "w9 w1 " * 30, "w2 w3 w4 w5"]


@dataclass(frozen=True)
class Step:
    """One plan: what it drops, and how it narrows what is left."""

    attention: tuple[int, ...] = ()
    mlp: tuple[int, ...] = ()
    narrow: str = "no"
    """`no`, `some` for neurons by chance, or a method of `reconstruct`."""
    keep: float = 0.5
    multiple_of: int = 1
    seed: int = 0


def draw_steps(seed: str) -> tuple[ModelChoices, int]:
    """Return choices for a base, and how many plans follow each other on it."""
    draw = random.Random(seed)
    model = draw_model(f"{seed}:base")
    plain: dict[str, Any] = {"drop_attention": (), "drop_mlp": (), "neurons": {}}
    # what is set on the loaded model is in no folder
    plain |= {"eager": False, "limited_by": "tokenizer"}
    return replace(model, **plain), draw.choice((1, 2, 2, 3))


def draw_step(seed: str, base: BaseIdentity) -> Step:
    """Return a plan that this model allows."""
    draw = random.Random(seed)
    attention = [x for x in range(base.layers) if x not in base.dropped_attention]
    mlps = {layer: width for layer, width in enumerate(base.mlp_widths) if width}
    chosen = draw.sample(attention, draw.randint(0, min(2, len(attention) - 1)))
    gone = draw.sample(sorted(mlps), draw.randint(0, min(2, len(mlps))))
    left = [width for layer, width in mlps.items() if layer not in gone]
    narrow = draw.choice(("no", "some", *METHODS)) if left else "no"
    # all may stay where the refit makes up for what was dropped; other methods refit nothing
    refits = narrow == "reconstruct" and (chosen or gone)
    keep = draw.choice((0.3, 0.5, 0.9, *((1.0,) if refits else ())))
    # neurons in all that are kept must do for the least of each layer
    room = min(*left, int(keep * sum(left)) // len(left)) if left else 8
    return Step(
        attention=tuple(sorted(chosen)),
        mlp=tuple(sorted(gone)),
        narrow="some" if left and not (chosen or gone) and narrow == "no" else narrow,
        keep=keep,
        multiple_of=draw.choice([x for x in (1, 3, 8) if x <= max(1, room)]),
        seed=draw.randrange(1000),
    )


def plan_of(encoder: Encoder, step: Step) -> PruningPlan:
    """Return the plan of such choices for a loaded model."""
    draw = random.Random(step.seed)
    model: Any = encoder[0].model
    plan = PruningPlan(
        base=BaseIdentity.of(model), drop_attention=step.attention, drop_mlp=step.mlp
    )
    if step.narrow == "no":
        return plan
    if step.narrow == "some":
        left = {layer: width for layer, width in enumerate(plan.mlp_widths) if width}
        layers = draw.sample(sorted(left), draw.randint(1, len(left)))
        return replace(plan, neurons={x: _some(draw, left[x], step.keep) for x in layers})
    texts = tuple(words(draw, draw.randint(2, 20)) for _ in range(24))
    config = ReconstructConfig(
        keep_neurons=step.keep, method=step.narrow, multiple_of=step.multiple_of
    )
    return reconstruct(encoder, Calibration(texts=texts, source="words"), config, plan=plan)


def _some(draw: random.Random, width: int, keep: float) -> torch.Tensor:
    return torch.tensor(sorted(draw.sample(range(width), max(1, int(width * keep)))))


def vectors(encoder: Any) -> torch.Tensor:
    """Return the vectors of one padded batch, (texts, dimension), by the modules alone."""
    encoder.eval()
    with torch.inference_mode():
        found: torch.Tensor = encoder(encoder.preprocess(TEXTS))["sentence_embedding"]
    return found.float()


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest difference, in units of the largest value or of 1."""
    if first.shape != second.shape:
        return float("inf")
    return float((first - second).abs().max() / max(1.0, float(second.abs().max())))


def carry_out(step: Step, source: Path, out: Path) -> Path:
    """Make the plan, write the folder in both ways, and check all that must be the same.

    Raises:
        AssertionError: Something differs.
    """
    encoder = load(source, device="cpu")
    plan = plan_of(encoder, step)
    with masked(encoder[0].model, plan):
        expected = vectors(encoder)
    exported = export(encoder, plan, out)
    sliced = vectors(encoder)
    if exported[0].model.dtype == torch.float32:
        difference = apart(sliced, expected)
        assert difference <= TOLERANCE, f"sliced is {difference:.2g} from masked"
    for name, other in (("returned", exported), ("loaded", load(out, device="cpu"))):
        assert torch.equal(vectors(other), sliced), f"{name} is not what was exported"
    if plan.base.family in ON_DISK:
        _check_from_disk(source, plan, out)
    return out


def _check_from_disk(source: Path, plan: PruningPlan, out: Path) -> None:
    written = export_from_disk(source, plan, out.with_name(f"{out.name}-from-disk"))
    ours, theirs = tensors_of(written), tensors_of(out)
    assert ours.keys() == theirs.keys(), f"from disk: {sorted(ours.keys() ^ theirs.keys())}"
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), f"from disk: {name} differs"
        assert tensor.dtype == theirs[name].dtype, f"from disk: {name} is {tensor.dtype}"
    config = "config.json"
    assert (written / config).read_text() == (out / config).read_text(), "config from disk differs"
    first, second = (vectors(load(x, device="cpu")) for x in (written, out))
    assert torch.equal(first, second), "the folder from disk gives other vectors"
