"""Look into the MLPs of a model while it runs, and let it run as if it were already pruned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .families import Architecture, find
from .offload import parameter_of
from .plan import PruningPlan
from .surgery import dropped_attention, mlp_widths, model_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, kw_only=True, eq=False)
class NewOutput:
    """An output projection over some of an MLP's neurons."""

    neurons: torch.Tensor
    """The neurons it reads, ascending, (kept,), int64."""
    weight: torch.Tensor
    """(hidden, kept)."""
    bias: torch.Tensor | None
    """(hidden,)."""

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        """Return what the projection makes of all neurons' activations, in their dtype."""
        kept = activations.index_select(-1, self.neurons.to(activations.device))
        bias = None if self.bias is None else self.bias.to(kept)
        return nn.functional.linear(kept, self.weight.to(kept), bias)


@dataclass(frozen=True, kw_only=True, eq=False)
class Captured:
    """What one MLP did to the tokens of a batch, padding left out."""

    activations: torch.Tensor
    """Input of the output projection, (tokens, neurons)."""
    output: torch.Tensor
    """Output of that projection, (tokens, hidden)."""
    stream: torch.Tensor
    """The residual stream with the MLP's output in it, before any norm, (tokens, hidden)."""
    handed_on: LayerOutput
    """What the layer gives the next one, padding included."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerOutput:
    """What a layer of a model returned for one batch."""

    hidden: torch.Tensor
    """(batch, tokens, hidden), in the model's dtype."""
    in_tuple: bool
    """Whether the model's layers return it as the first item of a tuple."""

    @classmethod
    def of(cls, returned: Any) -> LayerOutput:
        """Take what a layer returned."""
        in_tuple = isinstance(returned, tuple)
        return cls(hidden=returned[0] if in_tuple else returned, in_tuple=in_tuple)


class _Enough(Exception):  # noqa: N818 - it ends a forward pass early and is no error
    """Raised behind the last layer that is wanted."""


def capture(
    encoder: SentenceTransformer,
    architecture: Architecture,
    batch: Mapping[str, torch.Tensor],
    layers: Sequence[int],
    *,
    start: LayerOutput | None = None,
) -> dict[int, Captured]:
    """Run one batch as far as the last of `layers`, and return what their MLPs did.

    Args:
        encoder: Whose model is run.
        architecture: Its row of the table.
        batch: As `token_batches` yields them.
        layers: Of which to return something.
        start: What the layer before the first of `layers` returned. Layers up to there do not run;
            masks, positions and whatever else the model hands to its layers are its own.

    Raises:
        ValueError: The model splits its MLP into chunks.
        RuntimeError: A layer did not run, or its hooks did not.
    """
    model: Any = encoder[0].model
    mask = token_mask(batch)
    found: dict[int, dict[str, Any]] = {layer: {} for layer in layers}
    with ExitStack() as stack:
        for layer in layers:
            module = model_layers(model, architecture)[layer]
            for handle in _Watch(found[layer], layer, mask).hook(module, architecture):
                stack.callback(handle.remove)
        first, last = min(layers), max(layers)
        _run(encoder, architecture, batch, first=first, last=last, start=start)
    for layer, parts in found.items():
        if len(parts) != 4:
            raise RuntimeError(
                f"the MLP of layer {layer} was not seen in the forward pass; reconstruct a model "
                "whose layers all run and that is not compiled"
            )
    return {layer: Captured(**parts) for layer, parts in found.items()}


def run_layer(
    encoder: SentenceTransformer,
    architecture: Architecture,
    batch: Mapping[str, torch.Tensor],
    layer: int,
    start: LayerOutput | None,
) -> LayerOutput:
    """Run one batch through one layer alone, as the model itself calls it.

    Args:
        encoder: Whose model is run.
        architecture: Its row of the table.
        batch: As `token_batches` yields them.
        layer: Which.
        start: What the layer before returned; None in front of the first.

    Raises:
        RuntimeError: The layer did not run.
    """
    output = _run(encoder, architecture, batch, first=layer, last=layer, start=start)
    if output is None:
        raise RuntimeError(
            f"layer {layer} did not run in the forward pass; reconstruct a model whose layers all "
            "run and that is not compiled"
        )
    return output


def _run(
    encoder: SentenceTransformer,
    architecture: Architecture,
    batch: Mapping[str, torch.Tensor],
    *,
    first: int,
    last: int,
    start: LayerOutput | None,
) -> LayerOutput | None:
    """Run the layers from `first` to `last` on what the one before them returned."""
    model: Any = encoder[0].model
    layers = model_layers(model, architecture)
    returned: list[LayerOutput] = []

    def stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        returned.append(LayerOutput.of(output))
        raise _Enough

    with ExitStack() as stack:
        if start is not None:
            for layer in layers[:first]:
                stack.enter_context(_returning(layer, start))
        stack.callback(layers[last].register_forward_hook(stop).remove)
        try:
            encoder[0](dict(batch))
        except _Enough:
            pass
    return returned[0] if returned else None


@contextmanager
def _returning(layer: nn.Module, output: LayerOutput) -> Iterator[None]:
    """Let a layer return what is given instead of running."""
    value = (output.hidden,) if output.in_tuple else output.hidden
    own = vars(layer).get("forward")
    vars(layer)["forward"] = lambda *args, **kwargs: value
    try:
        yield
    finally:
        del vars(layer)["forward"]
        if own is not None:
            vars(layer)["forward"] = own


class _Watch:
    """Takes the tokens that are not padding from three places of one layer."""

    def __init__(self, found: dict[str, Any], layer: int, mask: torch.Tensor) -> None:
        self.found = found
        self.layer = layer
        self.mask = mask

    def hook(self, module: nn.Module, architecture: Architecture) -> list[Any]:
        """Attach to the layer and return the handles."""
        output = module.get_submodule(architecture.mlp_output)
        hooks = [output.register_forward_hook(self._projected)]
        if architecture.mlp_sum:
            norm = module.get_submodule(architecture.mlp_sum)
            hooks.append(norm.register_forward_pre_hook(self._summed))
        return [*hooks, module.register_forward_hook(self._finished)]

    def _projected(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if "output" in self.found or args[0].shape[:-1] != self.mask.shape:
            raise ValueError(
                f"the MLP of layer {self.layer} sees {tuple(args[0].shape[:-1])} positions of "
                f"{tuple(self.mask.shape)} at a time; load the model with "
                "chunk_size_feed_forward=0, which gives the same"
            )
        self.found["activations"] = self._tokens(args[0])
        self.found["output"] = self._tokens(output)

    def _summed(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.found["stream"] = self._tokens(args[0])

    def _finished(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.found["handed_on"] = LayerOutput.of(output)
        if "stream" not in self.found:
            self.found["stream"] = self._tokens(self.found["handed_on"].hidden)

    def _tokens(self, values: torch.Tensor) -> torch.Tensor:
        return values[self.mask.to(values.device)]


@contextmanager
def pruned_forward(
    model: nn.Module,
    architecture: Architecture,
    *,
    outputs: Mapping[int, NewOutput] | None = None,
    drop_mlp: Sequence[int] = (),
    drop_attention: Sequence[int] = (),
) -> Iterator[None]:
    """Run a model as if neurons and sublayers were gone, without touching its weights.

    The output projection of a dropped sublayer gives zeros, and a narrowed MLP's comes from
    `outputs`, which is read while the model runs: entries may be added meanwhile.
    """
    outputs = {} if outputs is None else outputs
    layers = model_layers(model, architecture)
    widths, gone = mlp_widths(model, architecture), dropped_attention(model, architecture)

    def silence(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(output)

    def replace(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> Any:
            return outputs[layer](args[0]) if layer in outputs else None

        return hook

    with ExitStack() as stack:
        for layer, width in enumerate(widths):
            if width:
                hook = silence if layer in drop_mlp else replace(layer)
                module = layers[layer].get_submodule(architecture.mlp_output)
                stack.callback(module.register_forward_hook(hook).remove)
        for layer in set(drop_attention) - set(gone):
            module = layers[layer].get_submodule(architecture.attention_output)
            stack.callback(module.register_forward_hook(silence).remove)
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off, then give every module its own mode back."""
    with without_dropout(model), torch.inference_mode():
        yield


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, then give every module its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def token_mask(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return which positions hold a token, (batch, tokens), bool.

    Packed inputs and some tokenizers bring no mask: then every position is attended to.
    """
    return batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()


def output_weight(output: Any) -> torch.Tensor:
    """Return the weight of an output projection as (hidden, neurons), whatever its kind."""
    weight = parameter_of(output, "weight")
    return weight if isinstance(output, nn.Linear) else weight.T


def output_bias(output: Any) -> torch.Tensor | None:
    """Return the bias of an output projection, (hidden,), where it has one."""
    return None if output.bias is None else parameter_of(output, "bias")


@contextmanager
def masked(model: PreTrainedModel, plan: PruningPlan) -> Iterator[None]:
    """Make a base model compute what the pruned one will, while the context lasts.

    Output projections of dropped sublayers give zeros; those of narrowed MLPs read the kept neurons
    only, with their new weights where the plan has them.
    """
    architecture = find(model.config)
    outputs = {
        layer: _new_output(
            model_layers(model, architecture)[layer].get_submodule(architecture.mlp_output),
            plan,
            layer,
        )
        for layer in sorted({*plan.neurons, *plan.outputs})
    }
    with pruned_forward(
        model,
        architecture,
        outputs=outputs,
        drop_mlp=plan.drop_mlp,
        drop_attention=plan.drop_attention,
    ):
        yield


def _new_output(output: Any, plan: PruningPlan, layer: int) -> NewOutput:
    old = output_weight(output)
    neurons = plan.neurons.get(layer)
    if neurons is None:
        neurons = torch.arange(old.shape[1])
    parts = plan.outputs.get(layer, {})
    if "weight" in parts:
        weight = parts["weight"] if isinstance(output, nn.Linear) else parts["weight"].T
    else:
        weight = old.index_select(1, neurons.to(old.device))
    bias = parts.get("bias", output_bias(output))
    # what is written to disk has the model's dtype, so that is what is compared
    return NewOutput(
        neurons=neurons,
        weight=weight.to(old),
        bias=None if bias is None else bias.to(old),
    )


TOKENS = 16


def token_ids(model: Any, number: int) -> list[int]:
    """Return ids spread over the vocabulary, none of them padding."""
    size = model.get_input_embeddings().weight.shape[0]
    padding = getattr(model.config, "pad_token_id", None)
    known = [ident for ident in range(1, size, max(1, size // 64)) if ident != padding] or [0]
    return [known[(7 * place + 3) % len(known)] for place in range(number)]
