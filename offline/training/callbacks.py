"""What watches over a training run: a collapse alarm, a time limit, timely checkpoints, log lines."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from offline.training.checkpoints import mark_complete
from offline.training.losses import TrainingCollapsed

LOGGER = logging.getLogger(__name__)


class CollapseAlarm(TrainerCallback):
    """Stops a run whose negatives vanish: it looks like success (the loss falls to zero) and is none.

    Args:
        figures: Of the latest training batch, ``negatives_survival`` among them if the task has negatives.
        min_survival: Share of negatives that must survive the filters, in [0, 1].
        patience: Consecutive log entries below it before the alarm goes off; at the end one is enough.
    """

    def __init__(
        self, figures: Callable[[], Mapping[str, float]] = dict, *, min_survival: float = 0.05, patience: int = 2
    ) -> None:
        self._figures = figures
        self._min_survival = min_survival
        self._patience = patience
        self._strikes = 0

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Looks at the ``negatives_survival`` that the trainer logged.

        Raises:
            TrainingCollapsed: It stayed too low.
        """
        survival = (logs or {}).get("negatives_survival")
        if survival is None:
            return
        self._strikes = self._strikes + 1 if survival < self._min_survival else 0
        if self._strikes:
            LOGGER.error("only %.2f %% of negatives survive the false-negative filter", 100 * survival)
        if self._strikes >= self._patience:
            raise self._collapsed(state, survival)

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Looks at the last batch, as a short run ends before anything is logged.

        Raises:
            TrainingCollapsed: Its negatives are gone.
        """
        survival = self._figures().get("negatives_survival")
        if survival is not None and survival < self._min_survival:
            raise self._collapsed(state, survival)

    def _collapsed(self, state: TrainerState, survival: float) -> TrainingCollapsed:
        return TrainingCollapsed(
            f"training collapsed at step {state.global_step}: {survival:.2%} of negatives survive the "
            f"filter, expected at least {self._min_survival:.0%}; are the items' texts the same? Else lower the "
            "learning rate, warm up longer, or raise --false-negative-cosine"
        )


class TimeLimit(TrainerCallback, ExportableState):
    """Ends training after ``args.max_minutes``, with an evaluation and a checkpoint.

    Time before a kill counts. The limit is read from the arguments, not kept here: a resumed run may be given
    another one.
    """

    def __init__(self) -> None:
        self.elapsed_seconds = 0.0
        self._last = time.monotonic()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Starts the clock."""
        self._last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Checks the clock."""
        now = time.monotonic()
        self.elapsed_seconds += now - self._last
        self._last = now
        minutes: float | None = getattr(args, "max_minutes", None)
        if minutes is not None and _first_process_says(args, self.elapsed_seconds >= 60 * minutes):
            LOGGER.warning("stopped after %.1f minutes, at step %d of %d", minutes, state.global_step, state.max_steps)
            control.should_training_stop = control.should_evaluate = control.should_save = True
        return control

    def state(self) -> dict[str, Any]:
        """What checkpoints keep."""
        return {"args": {}, "attributes": {"elapsed_seconds": self.elapsed_seconds}}


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint every so many seconds, and marks each as whole once it is.

    Args:
        directory: Where the Trainer writes them.
        seconds: What a killed run loses at most.
    """

    def __init__(self, directory: Path, *, seconds: float) -> None:
        self._directory = directory
        self._seconds = seconds
        self._saved_at = time.monotonic()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> TrainerControl:
        """Checks the clock."""
        is_due = time.monotonic() - self._saved_at >= self._seconds
        # An epoch ends with an evaluation and a checkpoint of its own. One written before that evaluation would be
        # gone on from with the next epoch, and this one would never be evaluated.
        ends_epoch = state.epoch is not None and state.epoch.is_integer()
        if _first_process_says(args, is_due and not ends_epoch):
            control.should_save = True
        return control

    def on_save(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Marks the checkpoint that was just written."""
        PartialState().wait_for_everyone()  # each process writes its own random state
        checkpoint = self._directory / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and checkpoint.is_dir():
            mark_complete(checkpoint)
        self._saved_at = time.monotonic()


def _first_process_says(args: TrainingArguments, flag: bool) -> bool:
    """Clocks differ between processes; what one does all must do, or they wait for each other forever."""
    if args.world_size == 1:
        return flag
    shared = torch.tensor([float(flag)], device=args.device)
    broadcast(shared, from_process=0)
    return bool(shared.item() > 0)


class LogLines(TrainerCallback):
    """Puts the Trainer's figures into the log, where other jobs' lines are."""

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """One line per log entry."""
        if state.is_world_process_zero and logs:
            figures = " ".join(f"{name}={value:.4g}" for name, value in logs.items() if isinstance(value, float | int))
            LOGGER.info("step %d/%d %s", state.global_step, state.max_steps, figures)
