"""What a model's parts cost on this machine: milliseconds a text, by MLP width and by sublayer."""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..encoder.encoder import transformer_model
from ..encoder.search_vectors import search_vectors
from ..fields import blamed_on, check_fields, from_mapping
from ..files import read_json, write_json
from ..model.apply import apply
from ..model.families import find
from ..model.identity import BaseIdentity
from ..model.plan import PruningPlan
from ..model.surgery import model_layers
from ..progress import progress_bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel

COSTS_FILE = "costs.json"
_FORMAT = "effir-costs-1"
_SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
"""Of the MLP neurons; between them, time is taken to grow evenly."""
_WARM_UP = 4


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is timed."""

    role: str
    """document or query: which prompt applies."""
    texts: tuple[str, ...]
    batch: int
    """Texts in a call; the encoder packs them as it always does."""
    max_length: int | None
    """Tokens a text is cut to; None takes the model's own limit."""

    def milliseconds(self, encoder: SentenceTransformer) -> float:
        """Run the texts once, and return what one took: the median over calls."""
        times = []
        for start in range(0, len(self.texts), self.batch):
            part = self.texts[start : start + self.batch]
            begun = time.perf_counter()
            search_vectors(encoder, part, kind=self.role, max_length=self.max_length)  # type: ignore[arg-type]
            times.append(1000 * (time.perf_counter() - begun) / len(part))
        return statistics.median(times)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Milliseconds of a text, taken apart; `measure_costs` makes it, `costs.json` keeps it."""

    setting: Mapping[str, Any]
    """Machine, threads, device, precision, the model's shape, and what was timed."""
    mlp_widths: tuple[int, ...]
    """Of the full model."""
    shares: tuple[float, ...]
    """Of the MLP neurons that were left when the times were taken, ascending from 0."""
    mlp: tuple[float, ...]
    """Milliseconds of all MLPs at each of these shares, never falling, from 0."""
    attention: float
    """Milliseconds of one attention sublayer."""
    attentions: int
    """Attention sublayers of the full model."""
    rest: float
    """Milliseconds of all else: tokens, embeddings, pooling."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def full(self) -> float:
        """Milliseconds of the full model."""
        return self.rest + self.attentions * self.attention + self.mlp[-1]

    def of(self, widths: Sequence[int], dropped_attention: int) -> float:
        """Return the milliseconds of a text.

        Args:
            widths: MLP neurons of every layer, 0 where the MLP is gone.
            dropped_attention: How many attention sublayers are gone.
        """
        total = sum(self.mlp_widths)
        mlps = sum(
            float(np.interp(width / whole, self.shares, self.mlp)) * whole / total
            for width, whole in zip(widths, self.mlp_widths, strict=True)
            if whole
        )
        return self.rest + (self.attentions - dropped_attention) * self.attention + mlps

    def check_setting(self, setting: Mapping[str, Any], place: Path) -> None:
        """Refuse costs of another machine, model or text.

        Raises:
            ValueError: One of the facts differs.
        """
        for name, ours in setting.items():
            if (theirs := self.setting.get(name)) != ours:
                raise ValueError(
                    f"{place} was measured with {name} {theirs!r}, and now it is {ours!r}; measure "
                    "again (--force), or choose another run folder (--out)"
                )

    def save(self, folder: Path) -> Path:
        """Write `costs.json` and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / COSTS_FILE, {"format": _FORMAT, **asdict(self)})
        return folder / COSTS_FILE

    @classmethod
    def load(cls, path: Path) -> Costs:
        """Read a file of costs.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is something else.
        """
        content = read_json(path, "the costs that `effir plan` measures")
        if content.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} holds no costs of `effir plan`; remove it")
        with blamed_on(path):
            return from_mapping(cls, content)


def setting_of(encoder: SentenceTransformer, work: Workload) -> dict[str, Any]:
    """Return what costs depend on, as `costs.json` names it."""
    model = transformer_model(encoder)
    base = BaseIdentity.of(model)
    device = str(encoder.device)
    cuda = torch.device(device).type == "cuda"
    return {
        "machine": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "device": device,
        "dtype": str(model.dtype).removeprefix("torch."),
        "family": base.family,
        "hidden size": base.hidden_size,
        "MLP widths": list(base.mlp_widths),
        "role": work.role,
        "batch": work.batch,
        "tokens": _mean_tokens(encoder, work),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _mean_tokens(encoder: SentenceTransformer, work: Workload) -> int:
    limit = work.max_length or encoder.max_seq_length
    ids = encoder.tokenizer(list(work.texts), truncation=False, verbose=False)["input_ids"]
    return round(statistics.mean(min(len(x), limit or len(x)) for x in ids))


def measure_costs(
    encoder: SentenceTransformer,
    work: Workload,
    *,
    multiple_of: int,
    rounds: int = 5,
    show_progress: bool = False,
) -> Costs:
    """Time the model with its MLPs at several widths, and without its attentions, in turns.

    The times are of whole models, fast path and all, so that their differences are what a width or
    a sublayer costs there. Which neurons stay does not matter for time. The models share what they
    have in common, so memory grows by their MLPs alone.

    Args:
        encoder: The full model, which is run, and is as it was afterwards.
        work: What is timed.
        multiple_of: What widths are multiples of.
        rounds: Times that each model is measured.
        show_progress: Draw a progress bar.

    Raises:
        ValueError: The model has no MLP, or one attention alone.
    """
    base = BaseIdentity.of(transformer_model(encoder))
    plans = {_share(plan): plan for plan in _thinned_plans(base, multiple_of)}
    attentions = [x for x in range(base.layers) if x not in base.dropped_attention]
    if not sum(base.mlp_widths) or len(attentions) < 2:
        raise ValueError(
            f"{base.name} has {sum(base.mlp_widths)} MLP neurons and {len(attentions)} attention "
            "sublayers; a plan needs some of the one and two of the other"
        )
    shares = sorted(plans)
    bare = PruningPlan(
        base=base, drop_mlp=plans[0.0].drop_mlp, drop_attention=tuple(attentions[1:])
    )
    narrowed = [thinned(transformer_model(encoder), plans[share]) for share in shares]
    models = [*reversed(narrowed), thinned(transformer_model(encoder), bare)]
    times = time_models(encoder, models, work, rounds=rounds, show_progress=show_progress)
    *by_share, without = times
    by_share.reverse()
    attention = max(0.0, (by_share[0] - without) / (len(attentions) - 1))
    mlp = np.maximum.accumulate([max(0.0, x - by_share[0]) for x in by_share])
    return Costs(
        setting=setting_of(encoder, work),
        mlp_widths=base.mlp_widths,
        shares=tuple(shares),
        mlp=tuple(mlp.tolist()),
        attention=attention,
        attentions=len(attentions),
        rest=max(0.0, by_share[0] - attention * len(attentions)),
    )


def _thinned_plans(base: BaseIdentity, multiple_of: int) -> Iterator[PruningPlan]:
    for share in _SHARES:
        yield shape_plan(base, [_rounded(share * width, multiple_of) for width in base.mlp_widths])


def shape_plan(
    base: BaseIdentity, widths: Sequence[int], drop_attention: Sequence[int] = ()
) -> PruningPlan:
    """Return a plan that leaves these widths, of the first neurons: for times, which say no more.

    Args:
        base: The full model.
        widths: MLP neurons of every layer, 0 where the MLP goes.
        drop_attention: Layers without attention.
    """
    return PruningPlan(
        base=base,
        drop_mlp=dropped_mlps(base, widths),
        drop_attention=tuple(drop_attention),
        neurons={x: torch.arange(w) for x, w in enumerate(widths) if 0 < w < base.mlp_widths[x]},
    )


def dropped_mlps(base: BaseIdentity, widths: Sequence[int]) -> tuple[int, ...]:
    """Return the layers that lose their MLP."""
    return tuple(x for x, width in enumerate(widths) if not width and base.mlp_widths[x])


def _rounded(width: float, multiple_of: int) -> int:
    if width == 0:
        return 0
    return max(multiple_of, round(width / multiple_of) * multiple_of)


def _share(plan: PruningPlan) -> float:
    return sum(plan.mlp_widths) / max(1, sum(plan.base.mlp_widths))


def thinned(model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
    """Return what a plan leaves of a model, which keeps what it has and shares it."""
    architecture = find(model.config)
    outputs = {
        id(parameter)
        for layer in model_layers(model, architecture)
        if hasattr(layer, "get_submodule")
        for name, parameter in layer.named_parameters()
        if name.startswith(architecture.mlp_output)
    }
    # an output's bias is not sliced, so a plan's would be written into the model's own
    shared = {id(x): x for x in (*model.parameters(), *model.buffers()) if id(x) not in outputs}
    return apply(copy.deepcopy(model, shared), plan)


@contextmanager
def running(encoder: SentenceTransformer, model: PreTrainedModel) -> Iterator[None]:
    """Let an encoder run another transformer while the context lasts."""
    first: Any = encoder[0]
    own = first.model
    first.model = model
    try:
        yield
    finally:
        first.model = own


def time_models(
    encoder: SentenceTransformer,
    models: Sequence[PreTrainedModel],
    work: Workload,
    *,
    rounds: int,
    show_progress: bool = False,
) -> list[float]:
    """Return the milliseconds of a text for every model, timed in turns.

    A machine whose speed drifts does so for all models of a round alike: of each, the median over
    rounds is taken of its share of the first one's time in the same round.
    """
    times: list[list[float]] = [[] for _ in models]
    places = list(range(len(models)))
    turns = [place for turn in range(rounds) for place in places[:: (-1) ** turn]]
    for place in progress_bar(turns, desc="Timing", unit="model", shown=show_progress):
        with running(encoder, models[place]):
            # the search for shortcuts of another model, and its first kernels, are not its time
            replace(work, texts=work.texts[:_WARM_UP]).milliseconds(encoder)
            times[place].append(work.milliseconds(encoder))
    shares = [
        statistics.median(x / first for x, first in zip(each, times[0], strict=True))
        for each in times
    ]
    return [statistics.median(times[0]) * share for share in shares]
