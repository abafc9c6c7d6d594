"""What the claims measures with: variants made once, rows that are found again."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sentence_transformers.sentence_transformer.modules import Pooling

from effir_integrations import Encoder, analyze, export, load
from effir_integrations.data.beir import RetrievalData
from effir_integrations.data.calibration import load_calibration
from effir_integrations.data.training_examples import TrainingData, load_training
from effir_integrations.encoder.encoder import role_prompt, transformer_model
from effir_integrations.encoder.model_files import identify_files
from effir_integrations.encoder.precision import has_bf16
from effir_integrations.encoder.sources import find_architecture, find_source
from effir_integrations.evaluation.evaluate import evaluate
from effir_integrations.model.plan import IMPORTANCE_FILE, ImportanceReport, PruningPlan
from effir_integrations.model.rewrite import identity_on_disk
from effir_integrations.pruning.config import DropConfig, ReconstructConfig
from effir_integrations.pruning.drop import drop
from effir_integrations.pruning.reconstruct import reconstruct
from effir_integrations.pruning.slim import slim
from effir_integrations.pruning.slim_config import SlimConfig
from effir_integrations.training.config import FinetuneConfig
from effir_integrations.training.finetune import finetune

from .rows import Rows
from .texts import content_hash, load_sets, training_rows
from .variants import FULL, Quality, Variant

ROWS_FILE = "rows.json"


class Lab:
    """Makes every variant once, and measures every row once; both are found again by later runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.model = Path(find_source(options.model))
        self.work: Path = options.work
        self.name: str = options.name or self.model.name
        self.causal = find_architecture(self.model).causal
        self.sets = load_sets(options)
        self.scifact, self.docstrings = self.sets
        self.data_hashes = {each.name: content_hash(asdict(each)) for each in self.sets}
        self.identity = identify_files(self.model).identity
        self.base = identity_on_disk(self.model)
        self.layers = self.base.layers
        if self.layers < 4:
            raise ValueError(f"{self.model} has {self.layers} layers; the claims need at least 4")
        if options.base is not None and identity_on_disk(options.base).layers != self.layers:
            raise ValueError(f"{options.base} has not the {self.layers} layers of {self.model}")
        self.calibration = load_calibration()
        narrow = options.dtype == "auto" and has_bf16(options.device or "cpu")
        self.dtype = ("bf16" if narrow else "fp32") if options.dtype == "auto" else options.dtype
        self.rows = Rows(self.work / ROWS_FILE, options.device)

    @cached_property
    def pooling(self) -> str:
        """How the model pools its tokens, such as `mean` or `lasttoken`."""
        return str(self.load(self.model)[1].pooling_mode)

    def part(self, eighths: int) -> int:
        """Return so many eighths of the layers, at least one."""
        return max(1, self.layers * eighths // 8)

    @cached_property
    def finetune_config(self) -> FinetuneConfig:
        """The one fine-tuning that every variant gets."""
        options = self.options
        return FinetuneConfig(
            steps=options.steps,
            batch_size=options.batch,
            learning_rate=options.rate,
            max_length=options.max_length,
            trains=options.trains,
        )

    def slim_config(self, keep: float) -> SlimConfig:
        """How gates are trained, on the same examples as the fine-tuning."""
        options = self.options
        return SlimConfig(
            paper=True,
            sparsity=1 - keep,
            steps=options.slim_steps,
            batch_size=options.batch,
            max_length=options.max_length,
            multiple_of=options.multiple_of,
        )

    @cached_property
    def examples(self) -> list[dict[str, Any]]:
        """What fine-tuning and gates learn from: no test query, no test judgement."""
        return training_rows(self.options, self.scifact, self.docstrings)

    @cached_property
    def examples_hash(self) -> str:
        """What tells these examples from others."""
        return content_hash(self.examples)

    def training(self, encoder: Encoder) -> TrainingData:
        """Return the examples in the form in which an encoder is queried."""
        return load_training(
            self.examples,
            negatives=0,
            query_prompt=role_prompt(encoder, "query"),
            document_prompt=role_prompt(encoder, "document"),
        )

    def settings(self, variant: Variant) -> dict[str, Any]:
        """Return all that a variant depends on."""
        found: dict[str, Any] = {"model": self.identity, "variant": variant.dropped}
        if variant.dropped or variant.width:
            found["calibration"] = self.calibration.sha256
        if variant.width:
            found |= {"width": variant.width, "keep": round(variant.keep, 6)}
            found["multiple_of"] = self.options.multiple_of
        if variant.width == "slim" or variant.tuned:
            found["examples"] = self.examples_hash
        if variant.width == "slim":
            found["slim"] = asdict(self.slim_config(variant.keep))
        if variant.tuned:
            found["finetune"] = asdict(self.finetune_config)
        return found

    def _place(self, kind: str, variant: Variant) -> Path:
        slug = "".join(letter if letter.isalnum() else "-" for letter in variant.name)
        slug += "-tuned" if variant.tuned else ""
        return self.work / kind / f"{slug}-{content_hash(self.settings(variant))[:8]}"

    def folder(self, variant: Variant) -> Path:
        """Return the folder of a variant, made if it is not there yet."""
        if variant == FULL:
            return self._unchanged_model()
        out = self._place("models", variant)
        if (out / "modules.json").is_file():
            return out
        self.rows.check_measuring(variant.name)
        if variant.tuned:
            encoder = self.load(self.folder(replace(variant, tuned=False)))
            finetune(encoder, self.training(encoder), self.finetune_config, out)
        else:
            plan = self._make_plan(variant)
            plan.save(self._place("plans", variant))
            export(self.load(self.folder(FULL)), plan, out)
        return out

    def _unchanged_model(self) -> Path:
        if identify_files(self.model).identity != self.identity:
            raise RuntimeError(
                f"{self.model} is another model than when this run began; run the command again, "
                "which measures that one"
            )
        return self.model

    def plan(self, variant: Variant) -> PruningPlan:
        """Return the plan of a variant, which is made with it."""
        untuned = replace(variant, tuned=False)
        self.folder(untuned)
        return PruningPlan.load(self._place("plans", untuned))

    def _make_plan(self, variant: Variant) -> PruningPlan:
        plan = PruningPlan(base=self.base)
        if variant.dropped:
            plan = drop(self.base, _drop_config(variant), self.report(self.model))
        if variant.width == "reconstruct":
            width = ReconstructConfig(
                keep_neurons=variant.keep, multiple_of=self.options.multiple_of
            )
            plan = reconstruct(self.load(self.folder(FULL)), self.calibration, width, plan=plan)
        elif variant.width == "slim":
            encoder, work = self.load(self.folder(FULL)), self._place("gates", variant)
            gates = self.slim_config(variant.keep)
            plan = slim(encoder, self.training(encoder), gates, work, plan=plan)
        return plan

    def report(self, model: Path) -> ImportanceReport:
        """Return the importance of a model's sublayers, measured once."""
        identity = content_hash([identify_files(model).identity, self.calibration.sha256])
        folder = self.work / "importance" / identity[:8]
        if not (folder / IMPORTANCE_FILE).is_file():
            self.rows.check_measuring(f"importance of {model}")
            analyze(self.load(model), self.calibration).save(folder)
        return ImportanceReport.load(folder)

    def load(self, folder: Path, precision: str | None = None) -> Encoder:
        """Load a folder in the checkpoint's own dtype, or to encode at a precision."""
        return load(folder, device=self.options.device, precision=precision)

    def quality(
        self,
        variant: Variant,
        data: str,
        *,
        length: int | None = None,
        pooling: str = "own",
        precision: str | None = None,
    ) -> Quality:
        """Measure nDCG@10 of a variant on a data set, by exact search.

        Args:
            variant: Made if it is not there yet.
            data: Name of one of the two data sets.
            length: Tokens a text is cut to; None is that of the sweeps.
            pooling: `own`, or `mean` or `lasttoken` in place of the model's.
            precision: As of `load`; None is the script's.
        """
        (chosen,) = (each for each in self.sets if each.name == data)
        length = length or self.options.max_length
        settings = {
            **self.settings(variant),
            "data": self.data_hashes[data],
            "max_length": length,
            "pooling": pooling,
            "precision": precision or self.dtype,
        }

        def measure() -> dict[str, Any]:
            encoder = self.load(self.folder(variant), precision or self.dtype)
            if pooling != "own":
                size = transformer_model(encoder).config.hidden_size
                encoder[1] = Pooling(size, pooling_mode=pooling)
            values = measure_quality(encoder, chosen, length)
            how = f"{pooling} pooling, {length} tokens, {precision or self.dtype}"
            print(f"{data}: {variant.title}, {how}: nDCG@10 {values['ndcg']:.4f}", flush=True)
            return values

        values = self.rows.row("quality", settings, measure)
        return Quality(variant=variant, data=data, **values)


def _drop_config(variant: Variant) -> DropConfig:
    return DropConfig(
        mlp=variant.mlp,
        attention=variant.attention,
        block=variant.block,
        last_blocks=variant.last_blocks,
    )


def measure_quality(encoder: Encoder, data: RetrievalData, length: int) -> dict[str, Any]:
    """Return the figures of `Quality`."""
    found = evaluate(encoder, data, max_length=length)
    return {
        "ndcg": found.metrics["nDCG@10"],
        "by_query": found.ndcg_by_query,
        "recall": found.metrics["R@100"],
        "parameters": found.non_embedding_parameters,
        "megabytes": weight_bytes(transformer_model(encoder)) / 1e6,
    }


def weight_bytes(model: Any) -> int:
    """Sum the bytes of all parameters, of quantised ones those of what they consist of."""
    total = 0
    for tensor in model.parameters():
        names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else ()
        parts = [getattr(tensor, name) for name in names] or [tensor]
        total += sum(part.numel() * part.element_size() for part in parts)
    return total
