"""Measure how much every attention, MLP and layer matters, in one forward pass over some texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..data.calibration import calibrated
from ..encoder.encoder import token_batches, transformer_model
from ..encoder.loading import loaded
from ..encoder.tokenization import token_limit
from ..model.apply import check_code
from ..model.families import find
from ..model.hooks import evaluation_mode
from ..model.identity import BaseIdentity
from ..model.plan import ImportanceReport
from ..model.surgery import dropped_attention, mlp_widths, model_layers
from ..progress import is_shown
from .measuring import measuring

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel

    from ..data.calibration import Calibration

_CHUNK = 1 << 22
"""Numbers subtracted at once: temporaries above 32 MB are mapped, and zeroed, again every time."""


def analyze(
    model: SentenceTransformer | str | Path,
    texts: Calibration | str | Path | Sequence[str] | None = None,
    *,
    max_length: int | None = None,
    batch_tokens: int = 8192,
    show_progress: bool | None = None,
) -> ImportanceReport:
    """Score every sublayer by how far it turns the residual stream, mean over tokens (eq. 3).

    The importance of a sublayer F at a token is `1 - cosine(x, x + F(x))`. In post-LN layers the
    sum is taken before the norm, whose own scale would otherwise count as importance; a block is
    the layer's input against its output. Padding does not count. Sums are kept, hidden states are
    not, so memory does not grow with the number of texts.

    Args:
        model: A Sentence Transformers model, full or already pruned, on any device, in any dtype;
            or the folder or name to load one from.
        texts: The texts to measure on, as a list, or as `load_calibration` takes them; None takes
            those that are shipped. No prompt is put in front of them.
        max_length: Where texts are cut, in tokens; None takes the encoder's own limit.
        batch_tokens: Padded tokens a forward pass.
        show_progress: Draw a progress bar;
            None: where someone watches, in a notebook or a terminal.

    Returns:
        One score a layer and kind; None for a sublayer that the model does not have.

    Raises:
        ValueError: An argument is out of range, the family is not supported, the model has no
            layers or splits its MLP into chunks, the texts hold no token, or the activations of a
            layer are not finite.
        RuntimeError: A layer did not run, or its hooks did not.
    """
    show_progress = is_shown(show_progress)
    _check_limits(max_length, batch_tokens)
    encoder, calibration = loaded(model), calibrated(texts)
    transformer = transformer_model(encoder)
    check_code(transformer)
    meter = _Meter(transformer)
    batches = token_batches(
        encoder,
        calibration.texts,
        max_length=max_length,
        batch_tokens=batch_tokens,
        description="Analyzing",
        show_progress=show_progress,
    )
    # hooks see every run of the model, so nobody else may run it meanwhile
    with measuring(encoder), evaluation_mode(transformer), meter.attached():
        for batch in batches:
            # packed inputs and some tokenizers bring no mask: then every position is attended to
            mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            if mask.any():
                meter.start_batch(mask)
                encoder[0](batch)
                meter.finish_batch()
    if not meter.tokens:
        raise ValueError(
            f"the {len(calibration.texts)} calibration texts of {calibration.source!r} hold no "
            "token that is not padding; give texts that the model's tokenizer knows"
        )
    return ImportanceReport(
        base=BaseIdentity.of(transformer),
        calibration={
            **calibration.record,
            "tokens": meter.tokens,
            "max_length": token_limit(encoder, max_length),
        },
        attention=meter.means("attention"),
        mlp=meter.means("mlp"),
        block=tuple(score for score in meter.means("block") if score is not None),
    )


def _check_limits(max_length: int | None, batch_tokens: int) -> None:
    for name, value in (("max_length", max_length), ("batch_tokens", batch_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not allowed; give a number of tokens from 1 up")


def _check_model(model: PreTrainedModel, layers: int) -> None:
    if not layers:
        raise ValueError(
            f"the model {model.config.name_or_path!r} has no layers, so there is nothing to score; "
            "choose a model with at least one"
        )
    chunk = getattr(model.config, "chunk_size_feed_forward", 0)
    if chunk:
        raise ValueError(
            f"the model's MLPs see {chunk} positions at a time (chunk_size_feed_forward={chunk}), "
            "never the whole stream; load it with chunk_size_feed_forward=0, which gives the same"
        )


@dataclass(frozen=True, kw_only=True)
class _Point:
    """The residual stream at one place in a layer, with what all comparisons of it share."""

    hidden: torch.Tensor
    """As the module sees it, (batch, tokens, hidden), in the model's dtype."""
    rows: torch.Tensor
    """The same, (batch * tokens, hidden), fp32; not copied if it is fp32 already."""
    norm: torch.Tensor
    """Length of every token's vector, (batch * tokens,), fp32."""

    @classmethod
    def of(cls, hidden: torch.Tensor) -> _Point:
        """Convert and take lengths once."""
        rows = hidden.reshape(-1, hidden.shape[-1]).float()
        return cls(hidden=hidden, rows=rows, norm=torch.linalg.vector_norm(rows, dim=-1))


def _sum_norm(rows: torch.Tensor, others: torch.Tensor, sign: int) -> torch.Tensor:
    """Return the length of every row of `rows + sign * others`, (rows,), fp32."""
    others = others.to(rows.device)
    size = 1 + _CHUNK // rows.shape[1]
    sums = (
        torch.add(rows[start : start + size], others[start : start + size], alpha=sign)
        for start in range(0, len(rows), size)
    )
    return torch.cat([torch.linalg.vector_norm(chunk, dim=-1) for chunk in sums])


class _Meter:
    """Adds up the importance of every sublayer and block, over tokens and batches."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.architecture = find(model.config)
        self.layers = model_layers(model, self.architecture)
        _check_model(model, len(self.layers))
        self.parallel = self.architecture.is_parallel(model.config)
        gone = dropped_attention(model, self.architecture)
        self.kinds = [
            ["attention"] * (layer not in gone) + ["mlp"] * (width > 0) + ["block"]
            for layer, width in enumerate(mlp_widths(model, self.architecture))
        ]
        self.tokens = 0
        self._keys = [(layer, kind) for layer, kinds in enumerate(self.kinds) for kind in kinds]
        self._sums = torch.zeros(len(self._keys), dtype=torch.float64)
        self._batch_sums: dict[tuple[int, str], torch.Tensor] = {}
        self._mask = torch.empty(0)
        self._latest: _Point | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hook every layer, and unhook it whatever happens."""
        with ExitStack() as stack:
            stack.callback(self._forget_batch)
            for index, layer in enumerate(self.layers):
                for handle in _Watch(self, index).hook(layer):
                    stack.callback(handle.remove)
            yield

    def point(self, hidden: torch.Tensor) -> _Point:
        """Return the point of a layer's input or output: the output of one is the next's input."""
        if self._latest is None or self._latest.hidden is not hidden:
            self._latest = _Point.of(hidden)
        return self._latest

    def start_batch(self, mask: torch.Tensor) -> None:
        """Get ready for a forward pass; `mask` is (batch, tokens), true where a token counts."""
        self._forget_batch()
        self._mask = mask.reshape(-1)

    def record(self, layer: int, kind: str, importance: torch.Tensor) -> None:
        """Add up a sublayer's importance over the tokens that count, (batch * tokens,), fp32."""
        counts = self._mask.to(importance.device)
        self._batch_sums[layer, kind] = importance.where(counts, 0.0).sum()

    def finish_batch(self) -> None:
        """Add the batch to the sums, in fp64."""
        unseen = [key for key in self._keys if key not in self._batch_sums]
        if unseen:
            layer, kind = unseen[0]
            raise RuntimeError(
                f"the {kind} of layer {layer} was not seen in the forward pass; analyze a model "
                "whose layers all run and that is not compiled"
            )
        # one transfer for each batch; fp64 on the CPU, because not every device has it
        parts = [self._batch_sums[key].to(self._mask.device) for key in self._keys]
        sums = torch.stack(parts).cpu().double()
        if not sums.isfinite().all():
            layer, kind = self._keys[int(sums.isfinite().int().argmin())]
            raise ValueError(
                f"the activations at the {kind} of layer {layer} are not finite (NaN, inf or "
                "overflow); load the model in bf16 or fp32, and check its weights"
            )
        self._sums += sums
        self.tokens += int(self._mask.sum())

    def means(self, kind: str) -> tuple[float | None, ...]:
        """Return the mean importance over tokens of every layer, None where there is none."""
        means = dict(zip(self._keys, (self._sums / self.tokens).tolist(), strict=True))
        return tuple(means.get((layer, kind)) for layer in range(len(self.layers)))

    def _forget_batch(self) -> None:
        self._batch_sums.clear()
        self._latest = None


def _importance(before: torch.Tensor, after: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Return `1 - cosine(x, y)` from |x|, |y| and |y - x|.

    Written as `(|y-x|^2 - (|y|-|x|)^2) / (2 |x| |y|)`, since `1 - <x,y> / (|x| |y|)` of fp32 sums
    loses every digit where a sublayer hardly matters. A zero vector is at right angles to others.
    """
    before, after = before.to(step.device), after.to(step.device)
    scale = 2 * before * after
    cosine_gap = (step.square() - (after - before).square()) / scale
    return torch.where(scale == 0, (step > 0).float(), cosine_gap)


class _Watch:
    """Follows the residual stream through one layer and compares it before and after a sublayer."""

    def __init__(self, meter: _Meter, layer: int) -> None:
        self.meter = meter
        self.layer = layer
        self.points: dict[str, _Point] = {}
        row = meter.architecture
        ends = {
            "attention": ("start", "attention_sum" if row.attention_sum else "between"),
            "mlp": ("between", "mlp_sum" if row.mlp_sum else "end"),
            "block": ("start", "end"),
        }
        present = ["block"] if meter.parallel else meter.kinds[layer]
        self.comparisons = {kind: ends[kind] for kind in present}

    def hook(self, layer: nn.Module) -> list[Any]:
        """Attach to the places that the comparisons name, and return the handles."""
        row = self.meter.architecture
        handles = [
            _on_input(layer, partial(self._reach, "start")),
            _on_output(layer, partial(self._reach, "end")),
        ]
        used = {place for ends in self.comparisons.values() for place in ends} - {"start", "end"}
        for place in sorted(used):
            module = layer.get_submodule(getattr(row, place))
            handles.append(_on_input(module, partial(self._reach, place)))
        for kind in self.meter.kinds[self.layer] if self.meter.parallel else ():
            if kind != "block":
                module = layer.get_submodule(getattr(row, kind))
                handles.append(_on_output(module, partial(self._branch, kind)))
        return handles

    def _reach(self, place: str, hidden: torch.Tensor) -> None:
        shared = place in ("start", "end")
        after = self.points[place] = self.meter.point(hidden) if shared else _Point.of(hidden)
        for kind, (start, end) in self.comparisons.items():
            if end == place:
                before = self.points[start]
                step = _sum_norm(after.rows, before.rows, sign=-1)
                gap = _importance(before.norm, after.norm, step)
                self.meter.record(self.layer, kind, gap)
        if place == "end":
            self.points.clear()

    def _branch(self, kind: str, added: torch.Tensor) -> None:
        """Compare x with x plus one branch of a parallel layer, a sum the layer never forms."""
        before = self.points["start"]
        branch = _Point.of(added)
        after = _sum_norm(before.rows, branch.rows, sign=1)
        self.meter.record(self.layer, kind, _importance(before.norm, after, branch.norm))


def _on_input(module: nn.Module, see: Callable[[torch.Tensor], None]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(module: nn.Module, see: Callable[[torch.Tensor], None]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        see(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(hook)
