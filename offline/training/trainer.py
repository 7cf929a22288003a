"""transformers' Trainer for our tasks: what is ours of batches, metrics and figures in the log."""

import logging
import sys
import time
from contextlib import AbstractContextManager, nullcontext
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

from offline.training.callbacks import Checkpoints, CollapseAlarm, LogLines, TimeLimit
from offline.training.checkpoints import latest_complete, remove_incomplete
from offline.training.losses import TrainingCollapsed
from offline.training.run_settings import Recipe, RunSettings
from offline.training.tasks import Task
from offline.training.weight_average import WeightAverage
from offline.training.windows import LengthGrouped, RankingCases, TrainingWindows, collate_windows

LOGGER = logging.getLogger(__name__)
_STEPS_PER_LOG = 20


@dataclass
class TaskArguments(TrainingArguments):
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


class TaskTrainer(Trainer):
    """Trains a task on windows, and evaluates it on validation cases in the task's own way.

    With a weight average, that is what is validated and what a checkpoint has as its weights; those in training lie
    beside them.

    Args:
        weight_average: Of the task; None: none.
        options: The Trainer's own.
    """

    model: Task

    def __init__(self, *, weight_average: WeightAverage | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._average = weight_average
        if weight_average is not None:
            self.add_callback(weight_average)

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self._average is None else self._average.applied()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self._average is not None and output_dir is not None:
            self._average.save_trained(Path(output_dir))
        with self._averaged():
            super()._save(output_dir, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._average is not None:
            self._average.load_trained(Path(resume_from_checkpoint))

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
        """Looks at the validation cases; what all of them need is made once.

        Raises:
            TrainingCollapsed: A weight is not a finite number, so that no checkpoint of this model is the best one.
        """
        for name, weights in self.model.named_parameters():
            if not torch.isfinite(weights).all():
                raise TrainingCollapsed(
                    f"training ended at step {self.state.global_step}: {name} has values that are not finite numbers; "
                    "try a lower --learning-rate"
                )
        with self._averaged(), self.model.evaluation():
            return super().evaluate(*args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,  # noqa: ARG002
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,  # noqa: ARG002
        ignore_keys: list[str] | None = None,  # noqa: ARG002
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The task's numbers (B,) of the cases, in the place of logits."""
        batch = self._prepare_inputs(inputs)
        with torch.no_grad():
            values = self.model.evaluate_cases(batch)
        return None, values, batch["targets"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the task's own figures."""
        if "loss" in logs:
            logs.update(self.model.training_figures())
        super().log(logs, start_time)


def train_task(
    task: Task, data: TrainingData, *, recipe: Recipe, settings: RunSettings, directory: Path
) -> dict[str, float]:
    """Trains to the best of the task's first validation figure; a killed run goes on from its last whole checkpoint.

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
    arguments = training_arguments(task, recipe, settings, directory)
    trainer = TaskTrainer(
        model=task,
        args=arguments,
        train_dataset=data.windows,
        eval_dataset=data.validation,
        data_collator=data.collate,
        weight_average=WeightAverage(task, recipe.weight_average) if recipe.weight_average else None,
        compute_metrics=lambda prediction: _summary(task, prediction),
        callbacks=[
            EarlyStoppingCallback(early_stopping_patience=recipe.patience),
            TimeLimit(),
            Checkpoints(directory, seconds=settings.checkpoint_seconds),
            CollapseAlarm(task.training_figures),
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
    best = _best_entry(trainer.state.log_history, task)
    return {
        **{name: best[f"eval_{name}"] for name in task.metrics},
        "epochs": best["epoch"],
        "steps": trainer.state.global_step,
        "seconds": time.monotonic() - started,
    }


def training_arguments(task: Task, recipe: Recipe, settings: RunSettings, directory: Path) -> TaskArguments:
    """The recipe in the Trainer's words."""
    use_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    has_bf16 = (settings.bf16_on_cpu and _cpu_has_bf16()) if use_cpu else torch.cuda.is_bf16_supported()
    return TaskArguments(
        output_dir=str(directory),
        max_minutes=settings.max_minutes,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=task.cases_per_batch,
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
        metric_for_best_model=task.metrics[0],
        greater_is_better=task.greater_is_better,
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


def _summary(task: Task, prediction: EvalPrediction) -> dict[str, float]:
    return task.summarise(np.asarray(prediction.predictions))


def _best_entry(log_history: list[dict[str, float]], task: Task) -> dict[str, float]:
    name = f"eval_{task.metrics[0]}"
    evaluations = [entry for entry in log_history if name in entry]
    best = max if task.greater_is_better else min
    return best(evaluations, key=lambda entry: entry[name])
