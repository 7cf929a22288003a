"""transformers' Trainer for HLLM tasks: what is ours of batches, metrics and figures in the log."""

import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from offline.ranking_metrics import ndcg_at_k, recall_at_k
from offline.training.callbacks import Checkpoints, CollapseAlarm, LogLines, TimeLimit
from offline.training.checkpoints import latest_complete, remove_incomplete
from offline.training.hllm_tasks import HLLMTask
from offline.training.settings import PRESETS, Recipe, TrainSettings
from offline.training.windows import LengthGrouped, RankingCases, TrainingWindows, collate_windows

LOGGER = logging.getLogger(__name__)
METRIC = "ndcg@10"
_CASES_PER_BATCH = 256
_STEPS_PER_LOG = 20


@dataclass
class HLLMTrainingArguments(TrainingArguments):
    """The Trainer's arguments and one of ours.

    Attributes:
        max_minutes: Wall-clock limit, or None.
    """

    max_minutes: float | None = field(default=None)


@dataclass(frozen=True)
class TrainingData:
    """What a stage reads.

    Attributes:
        windows: To train on.
        validation: To choose the best checkpoint by.
        collate: Examples to a training batch.
    """

    windows: TrainingWindows
    validation: RankingCases
    collate: Any


class HLLMTrainer(Trainer):
    """Trains a task on windows, and evaluates it by ranking the whole catalogue."""

    model: HLLMTask

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        windows = cast(TrainingWindows, train_dataset or self.train_dataset)
        batch_size = self.args.train_batch_size * self.args.world_size
        return LengthGrouped(windows.lengths, batch_size, seed=self.args.seed)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Cases have a collation of their own."""
        training_collator = self.data_collator
        self.data_collator = collate_windows
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight decay is for matrices: not for gains, biases, [ITEM] and the temperature."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Ranks the validation cases against embeddings of the catalogue that are made once."""
        with self.model.evaluation_table():
            return super().evaluate(*args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,  # noqa: ARG002
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,  # noqa: ARG002
        ignore_keys: list[str] | None = None,  # noqa: ARG002
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Ranks (B,) of the targets, in the place of logits."""
        batch = self._prepare_inputs(inputs)
        with torch.no_grad():
            ranks = self.model.rank_targets(batch)
        return None, ranks, batch["targets"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what tells a healthy run from a collapsing one."""
        last = self.model.last
        if "loss" in logs and last is not None:
            logs["negatives_surviving"] = float(last.survivors)
            logs["negatives_survival"] = float(last.survival)
            logs["scale"] = float(self.model.hllm.score_scale().detach())
        super().log(logs, start_time)


def ranking_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Validation figures from ranks."""
    ranks = np.asarray(prediction.predictions)
    return {METRIC: ndcg_at_k(ranks, 10), "recall@10": recall_at_k(ranks, 10)}


def train_task(
    task: HLLMTask, data: TrainingData, *, recipe: Recipe, settings: TrainSettings, directory: Path
) -> dict[str, float]:
    """Trains to the best validation NDCG@10; a killed run goes on from its last whole checkpoint.

    Args:
        task: Holds the best weights afterwards.
        data: Windows and validation cases.
        recipe: Of the stage.
        settings: Of the run.
        directory: For checkpoints; of this stage of this run and no other.

    Returns:
        Validation metrics of the best checkpoint, steps and seconds (of this process, not of killed ones).
    """
    started = time.monotonic()
    arguments = training_arguments(recipe, settings, directory)
    trainer = HLLMTrainer(
        model=task,
        args=arguments,
        train_dataset=data.windows,
        eval_dataset=data.validation,
        data_collator=data.collate,
        compute_metrics=ranking_metrics,
        callbacks=[
            EarlyStoppingCallback(early_stopping_patience=recipe.patience),
            TimeLimit(),
            Checkpoints(directory, seconds=settings.checkpoint_seconds),
            CollapseAlarm(),
            LogLines(),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    if arguments.process_index == 0:
        remove_incomplete(directory)
    trainer.accelerator.wait_for_everyone()
    checkpoint = latest_complete(directory)
    if checkpoint is not None:
        LOGGER.info("going on from %s", checkpoint.name)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    best = _best_entry(trainer.state.log_history)
    return {
        **{name.removeprefix("eval_"): best[name] for name in (f"eval_{METRIC}", "eval_recall@10")},
        "epochs": best["epoch"],
        "steps": trainer.state.global_step,
        "seconds": time.monotonic() - started,
    }


def training_arguments(recipe: Recipe, settings: TrainSettings, directory: Path) -> HLLMTrainingArguments:
    """The recipe in the Trainer's words."""
    use_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    wants_cpu_bf16 = PRESETS[settings.preset].bf16_on_cpu
    has_bf16 = (wants_cpu_bf16 and _cpu_has_bf16()) if use_cpu else torch.cuda.is_bf16_supported()
    return HLLMTrainingArguments(
        output_dir=str(directory),
        max_minutes=settings.max_minutes,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=_CASES_PER_BATCH,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup,
        max_grad_norm=settings.max_gradient_norm,
        activation_checkpointing=settings.gradient_checkpointing,
        bf16=settings.precision == "bf16" or (settings.precision == "auto" and has_bf16),
        use_cpu=use_cpu,
        ddp_backend="gloo" if use_cpu and PartialState().num_processes > 1 else None,
        ddp_find_unused_parameters=False,
        seed=settings.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=METRIC,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_steps=_STEPS_PER_LOG,
        remove_unused_columns=False,
        dataloader_pin_memory=not use_cpu,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
    )


def _cpu_has_bf16() -> bool:
    # without the instructions, bf16 is emulated and slower than float32
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _best_entry(log_history: list[dict[str, float]]) -> dict[str, float]:
    evaluations = [entry for entry in log_history if f"eval_{METRIC}" in entry]
    return max(evaluations, key=lambda entry: entry[f"eval_{METRIC}"])
