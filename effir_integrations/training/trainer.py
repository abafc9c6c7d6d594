"""`SentenceTransformerTrainer` with exact checkpoints and a stop at the first bad loss."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..files import new_file
from ..progress import progress_bar
from .checkpoints import last_checkpoint, seal_checkpoint
from .config import NO_LOSSES, TrainConfig
from .launch import is_main_process, is_sharded, processes

logger = logging.getLogger(__name__)

TRAINED_FILE = "trained.safetensors"


class StageTrainer(SentenceTransformerTrainer):
    """Sees a list of examples once, in order, and saves what it trains, and only that.

    A checkpoint holds the trainable parameters under their own names, so that it is exact for
    gates, adapters and sliced models alike, and never reaches for a base by its name.
    """

    bar: _Bar

    @classmethod
    def for_stage(
        cls,
        encoder: SentenceTransformer,
        dataset: Any,
        loss: nn.Module,
        config: TrainConfig,
        work: Path,
        *,
        steps: int,
        learning_rates: dict[str, float],
        bar: tuple[str, bool],
        watch: Callable[[], dict[str, float]] | None = None,
    ) -> StageTrainer:
        """Set the trainer up for one stage.

        Raises:
            ValueError: The batch cannot be shared out evenly.
        """
        if config.batch_size % processes():
            raise ValueError(
                f"batch_size={config.batch_size} cannot be shared by {processes()} processes; "
                "choose a multiple of their number"
            )
        checkpointing: dict[str, Any] = {}
        if config.gradient_checkpointing:
            checkpointing["gradient_checkpointing"] = True  # its name until Transformers 6
            checkpointing["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(work),
            max_steps=steps,
            per_device_train_batch_size=config.batch_size // processes(),
            learning_rate=config.learning_rate,
            learning_rate_mapping=learning_rates,
            weight_decay=config.weight_decay,
            warmup_steps=round(config.warmup * steps),
            lr_scheduler_type="linear",
            max_grad_norm=config.max_gradient_norm,
            bf16=config.computes_in_bf16,
            **checkpointing,
            ddp_find_unused_parameters=False,
            seed=config.seed,
            save_strategy="steps",
            save_steps=min(config.save_steps, steps),
            save_total_limit=2,
            logging_steps=_log_interval(config.save_steps, steps),
            logging_nan_inf_filter=False,
            report_to=config.report_to,
            disable_tqdm=True,
            use_cpu=encoder.device.type == "cpu",
        )
        trainer = cls(model=encoder, args=arguments, train_dataset=dataset, loss=loss)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(_MarksWhole())
        trainer.bar = _Bar(*bar)
        trainer.add_callback(trainer.bar)
        if watch is not None:
            trainer.add_callback(_Watches(trainer, watch))
        return trainer

    def go_on_from(self, checkpoint: Path | None, steps: int) -> None:
        """Train what is left to train after a checkpoint."""
        if checkpoint is not None and int(checkpoint.name.rpartition("-")[2]) >= steps:
            self._load_from_checkpoint(str(checkpoint))
            self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            return
        try:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            self.bar.close()
        # accelerate leaves bf16 arithmetic wrapped around the model's forward
        self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Write no model card: the history has one of its own."""

    def get_batch_sampler(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> Any:
        """Take the examples as they lie: their order is settled."""
        return DefaultBatchSampler(
            SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last
        )

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take one step, and stop before a loss that is not finite reaches the weights.

        Raises:
            RuntimeError: It is not finite.
        """
        loss = super().training_step(*args, **kwargs)
        # all processes must stop together: one alone would leave the others waiting for it
        everywhere = self.accelerator.gather(loss.detach()) if processes() > 1 else loss
        if not bool(torch.isfinite(everywhere).all()):
            good = last_checkpoint(Path(str(self.args.output_dir)))
            kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
            step = self.state.global_step + 1
            raise RuntimeError(
                f"the loss is {everywhere.sum().item()} at step {step}; {kept}; "
                "lower the learning rate and start over (--force), or check the examples near there"
            )
        return loss

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: x for name, x in self.model.named_parameters() if x.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: (parameter if state_dict is None else state_dict[name]).detach()
            for name, parameter in self._trained().items()
        }
        bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
        if bad:
            raise RuntimeError(
                f"{bad[0]} is not finite after step {self.state.global_step}; lower the learning "
                "rate and start over (--force)"
            )
        whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        with new_file(folder / TRAINED_FILE) as partial:
            save_file(whole, partial)

    @torch.no_grad()
    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        if is_sharded():
            raise ValueError(
                f"{checkpoint_path} cannot be gone on from with weights cut up between processes "
                "(FSDP, DeepSpeed); start over (--force), or resume without sharding"
            )
        stored = load_file(Path(checkpoint_path) / TRAINED_FILE)
        trained = self._trained()
        if stored.keys() != trained.keys():
            raise RuntimeError(
                f"{checkpoint_path} holds other parameters than this stage trains; start over "
                "(--force)"
            )
        for name, parameter in trained.items():
            parameter.copy_(stored[name])


def _log_interval(save_steps: int, steps: int) -> int:
    """Return a divisor of the checkpoints' interval, so that resuming cuts no logged mean short."""
    limit = max(1, min(10, steps // 10))
    return max(number for number in range(1, limit + 1) if save_steps % number == 0)


class _MarksWhole(TrainerCallback):
    """Marks a checkpoint once the trainer has written all of it."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if processes() > 1:
            torch.distributed.barrier()  # every process writes its own random state
        if is_main_process():
            seal_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class _Watches(TrainerCallback):
    """Measures the model before the first step, before each checkpoint and after the last step."""

    def __init__(self, trainer: StageTrainer, measure: Callable[[], dict[str, float]]) -> None:
        self.trainer = trainer
        self.measure = measure

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._log(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # not when it is saved: what is logged then is not in the checkpoint
        if control.should_save or state.global_step >= state.max_steps:
            self._log(control)

    def _log(self, control: Any) -> None:
        due = control.should_log
        self.trainer.log(self.measure())
        control.should_log = due  # which logging takes back, though the losses are still to come


class _Bar(TrainerCallback):
    """One progress bar with the loss and its terms."""

    def __init__(self, description: str, shown: bool) -> None:
        self.description = description
        self.shown = shown
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = progress_bar(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.description,
            unit="step",
            shown=self.shown,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        numbers = {
            k: v for k, v in kwargs["logs"].items() if isinstance(v, float) and k not in NO_LOSSES
        }
        if self.bar is not None:
            self.bar.set_postfix(numbers, refresh=False)
        shown = ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())
        logger.info(
            "%s: step %d of %d, %s", self.description, state.global_step, state.max_steps, shown
        )

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar is not None:
            self.bar.close()
