"""An average of the weights over the steps of a training run: smoother than the weights of any one step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

TRAINED_FILE = "trained.safetensors"


class WeightAverage(TrainerCallback):
    """Exponential moving average of a model's trained weights.

    At first it is about that of the later half of the steps so far, so that it leaves the random start at once.

    Args:
        model: In training.
        decay: Of the average per step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._decay = decay

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Counts the step's weights in."""
        decay = min(self._decay, (1 + state.global_step) / (3 + state.global_step))
        trained = [weight.detach() for weight in self._weights.values()]
        get_ema_multi_avg_fn(decay)(list(self._average.values()), trained, state.global_step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average for its weights inside the block."""
        trained = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._fill(self._average)
        try:
            yield
        finally:
            self._fill(trained)

    def save_trained(self, checkpoint: Path) -> None:
        """Puts the weights in training beside a checkpoint's own, which are the average."""
        checkpoint.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: weight.detach().contiguous() for name, weight in self._weights.items()}, checkpoint / TRAINED_FILE
        )

    def load_trained(self, checkpoint: Path) -> None:
        """Takes the average from the model, which was just loaded from the checkpoint, and the weights from beside."""
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._fill(load_file(checkpoint / TRAINED_FILE))

    def _fill(self, values: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(values[name])
