"""What the Trainer trains: windows of histories to a loss, validation cases to figures that pick the best weights."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn


class Task(nn.Module, ABC):
    """A model and what it is trained for.

    Attributes:
        metrics: Names of the validation figures; the best weights are those with the best of the first one.
        greater_is_better: Of that figure.
        cases_per_batch: Validation cases that are looked at together.
    """

    metrics: tuple[str, ...]
    greater_is_better: bool
    cases_per_batch = 256

    def evaluation(self) -> AbstractContextManager[None]:
        """Holds, while validation cases are looked at, what all of them need."""
        return nullcontext()

    @abstractmethod
    def evaluate_cases(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """One number (B,) for each case, on the batch's device.

        Args:
            batch: ``input_ids`` and ``timestamps`` (B, L), ``seen`` (B, S), ``targets`` (B,); 0 = padding.
        """

    @abstractmethod
    def summarise(self, values: np.ndarray) -> dict[str, float]:
        """The figures named in ``metrics`` from the numbers of all cases."""

    def training_figures(self) -> dict[str, float]:
        """Of the latest training batch, for the log and for the collapse alarm."""
        return {}
