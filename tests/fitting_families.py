"""Say which text models of the installed Transformers fit a row of the table of families.

Run by hand: `python tests/fitting_families.py`, with names of model types to see these alone. A
tiny random model of each type is held against each row: its paths lie in every layer, the width
setting is the MLP's width, and dropping and slicing give what zeroed weights give. What fits may be
added as a row; the tests of the table then prove the rest. A minute on one core.
"""

from __future__ import annotations

import copy
import inspect
import os
import sys
import warnings
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from effir_integrations.model.families import ARCHITECTURES, Architecture, is_stock
from effir_integrations.model.surgery import (
    drop_attention,
    drop_mlp,
    keep_neurons,
    model_layers,
    projection_shape,
)

LAYERS, WIDTH = 4, 48
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "embedding_size": 32,
    "vocab_size_per_layer_input": 64,
    "hidden_size_per_layer_input": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_intermediate_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
LARGEST = 30_000_000
"""Parameters above which a type is left out: its sizes have names that SIZES has not."""
UNUSUAL = ("multiplier", "scale", "parallel", "by_layer", "per_layer")
"""Words in the names of settings by which a class may compute something else."""


@dataclass(frozen=True)
class Finding:
    """What was found of one model type."""

    model_type: str
    fits: str = ""
    """The row that it fits."""
    words: str = ""
    """Why it fits none, or what its row would have to say otherwise."""


def main(names: list[str]) -> None:
    """Print a line for each model type."""
    warnings.simplefilter("ignore")
    rows = one_of_each_kind()
    found = [look(name, rows) for name in names or text_types()]
    width = max(len(x.model_type) for x in found)
    for finding in sorted(found, key=lambda x: (not x.fits, x.model_type)):
        row = f"fits {finding.fits}" if finding.fits else "-"
        print(f"{finding.model_type:{width}}  {row:18} {finding.words}".rstrip())  # noqa: T201


def one_of_each_kind() -> list[Architecture]:
    """Return the first row of those that are equal but for their names."""
    kinds: list[Architecture] = []
    for row in ARCHITECTURES.values():
        if all(replace(row, family=x.family, class_prefix=x.class_prefix) != x for x in kinds):
            kinds.append(row)
    return kinds


def text_types() -> list[str]:
    """Return the model types of one text tower that have a base model and no row yet."""
    found = []
    for config in MODEL_MAPPING:
        name = getattr(config, "model_type", "")
        own = is_stock(name) and name not in ARCHITECTURES
        if own and not config.sub_configs and getattr(config, "vocab_size", None) is not None:
            found.append(name)
    return sorted(set(found))


def look(name: str, rows: list[Architecture]) -> Finding:
    """Hold a tiny model of a type against each row."""
    try:
        model = tiny(name)
    except Exception as error:  # of any kind: a class that is built of other sizes
        return Finding(name, words=f"no tiny model: {_short(error)}")
    if model.config.is_encoder_decoder or model.main_input_name != "input_ids":
        two = model.config.is_encoder_decoder
        words = "is an encoder with a decoder" if two else f"takes {model.main_input_name}"
        return Finding(name, words=words)
    reasons = []
    for row in rows:
        missing = _missing(model, row)
        try:
            words = f"no {', '.join(missing)}" if missing else misfit(model, row)
        except Exception as error:  # of any kind: a model that is called otherwise
            words = f"fails: {_short(error)}"
        if not words:
            return Finding(name, fits=row.family, words=_otherwise(model, row))
        reasons.append((len(missing), f"nearest {row.family}: {words}"))
    fewest, words = min(reasons, key=lambda x: x[0])
    return Finding(name, words=words if fewest < 3 else _outline(model))


def tiny(name: str) -> Any:
    """Return a random model of a type, with neutral norms and biases made unlike each other."""
    config_class = CONFIG_MAPPING[name]
    known = set(inspect.signature(config_class).parameters) | set(config_class.attribute_map)
    sizes = {key: value for key, value in SIZES.items() if key in known}
    for key in ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim"):
        if key in known:
            sizes[key] = WIDTH
    config = config_class(**sizes)
    with torch.device("meta"):
        count = sum(x.numel() for x in MODEL_MAPPING[type(config)](config).parameters())
    if count > LARGEST:
        raise ValueError(f"{count:,} parameters: its sizes have names of their own")
    torch.manual_seed(0)
    model = MODEL_MAPPING[type(config)](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return model


def _missing(model: Any, row: Architecture) -> list[str]:
    """Return the paths of a row that some layer has not."""
    try:
        layers = model_layers(model, row)
    except AttributeError:
        return [row.layers, *_paths(row)]
    if not isinstance(layers, nn.ModuleList) or len(layers) != LAYERS:
        return [row.layers, *_paths(row)]
    known = [{path for path, _ in layer.named_modules()} for layer in layers]
    return [path for path in _paths(row) if not all(path in each for each in known)]


def _paths(row: Architecture) -> list[str]:
    named = [*row.attention_inputs, row.attention_output, *row.mlp_inputs, row.mlp_output]
    named += [row.between, row.attention_sum, row.mlp_sum]
    return sorted({*named, *row.without_attention, *row.without_mlp} - {""})


def misfit(model: Any, row: Architecture) -> str:
    """Say why a model that has the paths of a row does not fit it; nothing where it does."""
    layers = model_layers(model, row)
    norms = {path for x in layers for path, _ in x.named_children() if "norm" in path.lower()}
    if rest := sorted(norms - set(_paths(row))):
        return f"{rest[0]} is no norm of it"
    stated = getattr(model.config, row.width_setting, None)
    for layer in layers:
        found = projection_shape(layer.get_submodule(row.mlp_output))[0]
        if found != stated:
            return f"{row.mlp_output} takes {found} neurons, and {row.width_setting} is {stated}"
        for path in row.mlp_inputs:
            if projection_shape(layer.get_submodule(path))[1] != found * row.fused_inputs:
                return f"{path} gives no {found * row.fused_inputs} neurons"
    return _unequal(model, row)


def _unequal(model: Any, row: Architecture) -> str:
    """Say which of the invariants does not hold."""
    full = states(model)
    for cut, path, name in (
        (drop_attention, row.attention_output, "attention"),
        (drop_mlp, row.mlp_output, "MLP"),
    ):
        for layer in (0, 2):
            less, zeroed = copy.deepcopy(model), copy.deepcopy(model)
            cut(less, row, [layer])
            for parameter in model_layers(zeroed, row)[layer].get_submodule(path).parameters():
                parameter.data.zero_()
            if not torch.equal(states(less), states(zeroed)):
                return f"dropping the {name} of layer {layer} is not a zeroed {path}"
            if torch.equal(states(less), full):
                return f"the {name} of layer {layer} changes nothing"
    less, kept = copy.deepcopy(model).double(), torch.tensor([1, 5, 7, 30, 47])
    masked = copy.deepcopy(less)
    keep_neurons(less, row, {1: kept})
    output = model_layers(masked, row)[1].get_submodule(row.mlp_output)
    gone = [neuron for neuron in range(WIDTH) if neuron not in kept]
    (output.weight.data.T if isinstance(output, nn.Linear) else output.weight.data)[gone] = 0
    if (states(less) - states(masked)).abs().max() > 1e-12:
        return "slicing is not masking"
    return ""


@torch.inference_mode()
def states(model: Any, last: int = 9) -> torch.Tensor:
    """Return the last states of one text, whose last token may be another."""
    ids = torch.tensor([[5, 9, 33, 7, 21, 11, last]])
    return model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]


def _otherwise(model: Any, row: Architecture) -> str:
    """Say what the row of a type must say otherwise than the one that it fits."""
    words = []
    causal = torch.equal(states(model)[:, 0], states(model, last=40)[:, 0])
    if causal != row.causal:
        words.append(f"causal={causal}")
    lists = [
        key
        for key, value in model.config.to_dict().items()
        if isinstance(value, list) and len(value) == LAYERS
    ]
    if lists:
        words.append(f"settings by layer: {', '.join(lists)}")
    unusual = [key for key in model.config.to_dict() if any(word in key for word in UNUSUAL)]
    if unusual:
        words.append(f"read what {', '.join(unusual)} do")
    if not hasattr(transformers, type(model).__name__):
        words.append("its class has no public name")
    return "; ".join(words)


def _outline(model: Any) -> str:
    """Say of what the layers of a model consist, where no row has the same paths."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == LAYERS:
            return f"{path}: {', '.join(name for name, _ in module[0].named_children())}"
    return f"no list of {LAYERS} layers"


def _short(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:90]}"


if __name__ == "__main__":
    main(sys.argv[1:])
