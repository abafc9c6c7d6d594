"""Closed-form repairs that the package does not use, so that they can be measured beside its own.

Each is carried out on a second copy of the model, layer by layer, with hooks where a module of the
package's kind could not hold it: only `repairs.py` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from effir_integrations import load
from effir_integrations.encoder.encoder import token_batches, transformer_model
from effir_integrations.model.families import find
from effir_integrations.model.hooks import (
    LayerOutput,
    capture,
    evaluation_mode,
    output_bias,
    output_weight,
    run_layer,
    token_mask,
)
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.surgery import keep_neurons, model_layers
from effir_integrations.pruning.methods import Reconstruct
from effir_integrations.pruning.moments import Moments, ridge_strength

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What goes from a model, and what makes up for it; all streams are those of the cut model."""

    neurons: Mapping[int, torch.Tensor]
    """layer -> neurons that stay, of narrowed MLPs."""
    refit: bool = True
    """Whether the output projections of these are refitted."""
    dropped: Sequence[int] = ()
    """Layers without MLP."""
    heads: Mapping[int, torch.Tensor] | None = None
    """layer -> inputs of the attention's output projection that stay; it is refitted to them."""
    linear: bool = False
    """Whether a linear map of the MLP's input stands where an MLP was."""
    attention: float = 0.0
    """Share of what the stream lacks that a refit of the attention's output makes good; 0: none."""
    attention_ridge: float = 0.1
    """Pull of that refit towards the present weights."""
    counts: Mapping[tuple[int, int], torch.Tensor] | None = None
    """(layer, batch) -> what each token counts for, instead of what `reconstruct` takes."""
    ridge: float = 1e-3
    """As `ReconstructConfig.ridge`."""
    correction: float = 0.5
    """As `ReconstructConfig.correction`."""


class Repairer:
    """Runs calibration texts through a model and a cut copy of it, side by side."""

    def __init__(self, base: str, texts: Sequence[str], max_length: int | None) -> None:
        """Load the model.

        Raises:
            ValueError: Its attention and MLP are parallel, or norms follow its projections.
        """
        self.base = base
        self.encoder = load(base)
        self.model: Any = transformer_model(self.encoder)
        self.architecture = find(self.model.config)
        if self.architecture.norms_branches or self.architecture.is_parallel(self.model.config):
            raise ValueError(f"{base} adds its sublayers up otherwise; choose another model")
        self.plan = PruningPlan(base=BaseIdentity.of(self.model))
        self.batches = list(token_batches(self.encoder, texts, max_length=max_length))

    def cut(self, cut: Cut) -> Any:
        """Return an encoder with the cut made and repaired."""
        small = load(self.base)
        model: Any = transformer_model(small)
        full: list[LayerOutput | None] = [None] * len(self.batches)
        narrowed = list(full)
        with evaluation_mode(self.model), evaluation_mode(model):
            for layer in range(self.plan.base.layers):
                whole = [self._see(self.encoder, layer, x, full) for x in range(len(full))]
                if cut.attention and layer or cut.heads:
                    self._attention(cut, layer, small, whole, narrowed)
                if layer in cut.dropped:
                    self._dropped(cut, layer, small, whole, narrowed)
                elif layer in cut.neurons:
                    self._narrowed(cut, layer, small, whole, narrowed)
                for place, batch in enumerate(self.batches):
                    narrowed[place] = run_layer(
                        small, self.architecture, batch, layer, narrowed[place]
                    )
                    full[place] = whole[place].handed_on
        return small

    def _see(
        self, encoder: Any, layer: int, place: int, start: Sequence[LayerOutput | None]
    ) -> SimpleNamespace:
        """Return what goes through a layer's sublayers, of the tokens that are no padding."""
        row, batch = self.architecture, self.batches[place]
        module, mask = model_layers(transformer_model(encoder), row)[layer], token_mask(batch)
        seen = SimpleNamespace()

        def note(name: str) -> Any:
            return lambda module, args: setattr(seen, name, args[0][mask].float())

        def result(module: Any, args: Any, output: torch.Tensor) -> None:
            seen.attention_output = output[mask].float()

        watched = {
            "attention_input": row.attention_output,
            "middle": row.attention_sum or row.between,
            "mlp_input": row.mlp_inputs[0],
        }
        with ExitStack() as stack:
            for name, path in watched.items():
                handle = module.get_submodule(path).register_forward_pre_hook(note(name))
                stack.callback(handle.remove)
            output = module.get_submodule(row.attention_output)
            stack.callback(output.register_forward_hook(result).remove)
            captured = capture(encoder, row, batch, [layer], start=start[place])[layer]
        seen.activations, seen.output = captured.activations.float(), captured.output.float()
        seen.stream, seen.handed_on = captured.stream.float(), captured.handed_on
        return seen

    def _count(self, cut: Cut, layer: int, place: int, stream: torch.Tensor) -> torch.Tensor:
        if cut.counts is not None:
            return cut.counts[layer, place]
        return Reconstruct().count(self.batches[place], SimpleNamespace(stream=stream))  # type: ignore[arg-type]

    def _attention(
        self, cut: Cut, layer: int, small: Any, whole: list[Any], start: Sequence[Any]
    ) -> None:
        """Refit the attention's output projection, to those of its inputs that stay.

        In front of an MLP that is gone, pre-norm families fit what that MLP would add as well.
        """
        module = model_layers(transformer_model(small), self.architecture)[layer]
        output = module.get_submodule(self.architecture.attention_output)
        weight = output_weight(output).float()
        kept = torch.arange(weight.shape[1])
        if cut.heads is not None:
            kept = cut.heads.get(layer, kept)
        ahead = layer in cut.dropped and not self.architecture.attention_sum and not cut.linear
        moments = Moments(len(kept), len(weight), weight.device)
        for place, full in enumerate(whole):
            seen = self._see(small, layer, place, start)
            aim = full.stream if ahead else full.middle
            target = seen.attention_output + cut.attention * (aim - seen.middle)
            counts = self._count(cut, layer, place, full.middle)
            moments.add(seen.attention_input[:, kept], counts, target)
        fitted, bias = moments.fit(
            weight[:, kept], ridge=cut.attention_ridge, bias=output_bias(output) is not None
        )
        made = torch.zeros_like(weight)
        made[:, kept] = fitted.float()
        _set(output, made, bias)

    def _narrowed(
        self, cut: Cut, layer: int, small: Any, whole: list[Any], start: Sequence[Any]
    ) -> None:
        """Do what `reconstruct` does to one MLP."""
        kept = cut.neurons[layer]
        module = model_layers(transformer_model(small), self.architecture)[layer]
        output = module.get_submodule(self.architecture.mlp_output)
        if not cut.refit:
            keep_neurons(transformer_model(small), self.architecture, {layer: kept})
            return
        moments = Moments(len(kept), self.plan.base.hidden_size, output.weight.device)
        for place, full in enumerate(whole):
            seen = self._see(small, layer, place, start)
            target = seen.output + cut.correction * (full.stream - seen.stream)
            counts = self._count(cut, layer, place, full.stream)
            moments.add(seen.activations[:, kept], counts, target)
        prior = output_weight(output)[:, kept].float()
        weight, bias = moments.fit(prior, ridge=cut.ridge, bias=output_bias(output) is not None)
        keep_neurons(transformer_model(small), self.architecture, {layer: kept})
        _set(module.get_submodule(self.architecture.mlp_output), weight.float(), bias)

    def _dropped(
        self, cut: Cut, layer: int, small: Any, whole: list[Any], start: Sequence[Any]
    ) -> None:
        """Let an MLP add nothing, or a linear map of its input."""
        module = model_layers(transformer_model(small), self.architecture)[layer]
        output = module.get_submodule(self.architecture.mlp_output)
        if not cut.linear:
            output.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
            return
        hidden = self.plan.base.hidden_size
        moments = Moments(hidden, hidden, output.weight.device)
        for place, full in enumerate(whole):
            seen = self._see(small, layer, place, start)
            target = seen.output + cut.correction * (full.stream - seen.stream)
            moments.add(seen.mlp_input, self._count(cut, layer, place, full.stream), target)
        none = torch.zeros(hidden, hidden)
        fitted, shift = moments.fit(none, ridge=cut.ridge, bias=True)
        assert shift is not None
        weight, bias = fitted.float(), shift.float()
        held: list[torch.Tensor] = []
        enters = module.get_submodule(self.architecture.mlp_inputs[0])
        enters.register_forward_pre_hook(lambda module, args: held.append(args[0]))
        output.register_forward_hook(
            lambda module, args, output: torch.nn.functional.linear(held.pop(), weight, bias)
        )

    def rank_heads(self, ridge: float = 1e-3) -> dict[int, list[tuple[float, torch.Tensor]]]:
        """Return layer -> what each removal of a head (or key-value group) costs, and what stays.

        Backward elimination on the inputs of the attention's output projection, all of a head's at
        a time.
        """
        config = self.model.config
        groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        streams: list[LayerOutput | None] = [None] * len(self.batches)
        found = {}
        with evaluation_mode(self.model):
            for layer in range(self.plan.base.layers):
                output = model_layers(self.model, self.architecture)[layer].get_submodule(
                    self.architecture.attention_output
                )
                weight = output_weight(output).double()
                moments = Moments(weight.shape[1], 0, weight.device)
                for place, batch in enumerate(self.batches):
                    seen = self._see(self.encoder, layer, place, streams)
                    counts = Reconstruct().count(batch, SimpleNamespace(stream=seen.middle))  # type: ignore[arg-type]
                    moments.add(seen.attention_input, counts)
                    streams[place] = seen.handed_on
                gram = moments.gram(centred=output.bias is not None)
                steps = _eliminate_groups(gram, weight, groups, ridge)
                found[layer] = [(cost * moments.weight, kept) for cost, kept in steps]
        return found


def _eliminate_groups(
    gram: torch.Tensor, weight: torch.Tensor, groups: int, ridge: float
) -> list[tuple[float, torch.Tensor]]:
    """Remove the cheapest group of columns, again and again, down to the last one."""
    gram = gram.clone()
    gram.diagonal().add_(ridge_strength(gram, ridge))
    columns = torch.arange(len(gram)).view(groups, -1)
    left, steps = list(range(groups)), []
    while len(left) > 1:
        kept = columns[left].flatten()
        inverse = torch.linalg.inv(gram[kept[:, None], kept])
        refitted = torch.linalg.solve(gram[kept[:, None], kept], gram[kept] @ weight.T).T
        size = columns.shape[1]
        costs = []
        for place in range(len(left)):
            part = slice(place * size, (place + 1) * size)
            block = refitted[:, part]
            costs.append(float((torch.linalg.solve(inverse[part, part], block.T).T * block).sum()))
        cheapest = min(range(len(left)), key=lambda place: costs[place])
        del left[cheapest]
        steps.append((costs[cheapest], columns[left].flatten()))
    return steps


@torch.no_grad()
def _set(output: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    output.weight.copy_(weight if isinstance(output, torch.nn.Linear) else weight.T)
    if bias is not None:
        output.bias.copy_(bias)
