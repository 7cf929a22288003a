"""What training reads: windows of user histories, evaluation cases, and their padded batches.

A history longer than L + 1 is cut into windows that do not overlap, aligned to its end, as the authors' code
does; a remainder of one event has nothing to predict and is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from model_store.errors import InvalidInput
from offline.dataset.dataset import UserSequences
from offline.dataset.splits import EvaluationCases

# The Trainer finds the length of an example under this name.
ITEMS = "input_ids"


class TrainingWindows(Dataset[dict[str, np.ndarray]]):
    """All windows of all users.

    Args:
        sequences: Training events only.
        max_history_length: L; a window holds up to L inputs and, shifted by one, L targets.

    Raises:
        InvalidInput: No user has two events.
    """

    def __init__(self, sequences: UserSequences, *, max_history_length: int) -> None:
        self._item_indices = np.asarray(sequences.item_indices)
        self._timestamps = np.asarray(sequences.timestamps)
        self._bounds = np.array(list(_windows(np.asarray(sequences.offsets), max_history_length + 1)), dtype=np.int64)
        if len(self._bounds) == 0:
            raise InvalidInput(
                "training needs at least one user with two events before validation and test; found none"
            )
        self.lengths = (self._bounds[:, 1] - self._bounds[:, 0]).tolist()

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        start, end = self._bounds[row]
        return {ITEMS: self._item_indices[start:end], "timestamps": self._timestamps[start:end]}


def _windows(offsets: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        while end - start >= 2:
            yield max(start, end - size), end
            end -= size


class RankingCases(Dataset[dict[str, np.ndarray]]):
    """Histories and their next item, for validation during training.

    Args:
        cases: From the split.
        window: How many of its latest events the model reads of a history of so many; all of them count as seen.
        max_cases: Use at most this many, evenly spread; None uses all.
        allowed_targets: (N + 1,) bool by item_index; cases of other targets are left out.
    """

    def __init__(
        self,
        cases: EvaluationCases,
        *,
        window: Callable[[int], int],
        max_cases: int | None = None,
        allowed_targets: np.ndarray | None = None,
    ) -> None:
        rows = np.arange(len(cases.targets))
        if allowed_targets is not None:
            rows = rows[allowed_targets[cases.targets[rows]]]
        if max_cases is not None and len(rows) > max_cases:
            rows = rows[np.linspace(0, len(rows) - 1, max_cases).astype(np.int64)]
        lengths = cases.history_ends[rows] - cases.sequences.offsets[cases.user_rows[rows]]
        self._cases = cases
        # batches are taken in this order: of about equal length, so that little is padding
        self._rows = rows[np.argsort(lengths, kind="stable")]
        self._window = window

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        case = self._rows[row]
        start = self._cases.sequences.offsets[self._cases.user_rows[case]]
        end = self._cases.history_ends[case]
        seen = np.asarray(self._cases.sequences.item_indices[start:end])
        timestamps = np.asarray(self._cases.sequences.timestamps[start:end])
        start = len(seen) - self._window(len(seen))
        return {
            ITEMS: seen[start:],
            "timestamps": timestamps[start:],
            "seen": seen,
            "targets": np.asarray(self._cases.targets[case]),
        }


class LengthGrouped(Sampler[int]):
    """Examples in random order, near each other in length; the order follows from seed and epoch alone.

    The library's own sampler draws from the global random state, so that an epoch resumed in its middle would
    see some users twice and others never.

    Args:
        lengths: Of each example.
        batch_size: Over all processes.
        seed: Of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int) -> None:
        self._lengths = list(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        # about 16 batches to sort among, but at least a few groups, so that small data is mixed too
        groups = max(1, min(16, len(self._lengths) // (4 * self._batch_size)))
        yield from get_length_grouped_indices(
            self._lengths, self._batch_size, mega_batch_mult=groups, generator=generator
        )


def collate_windows(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Right-pads examples: (B, longest) int64 per sequence, (B,) int64 per scalar."""
    batch = {}
    for name in examples[0]:
        values = [np.asarray(example[name]) for example in examples]
        if values[0].ndim == 0:
            batch[name] = torch.tensor(np.array(values), dtype=torch.int64)
            continue
        padded = np.zeros((len(values), max(map(len, values))), dtype=np.int64)
        for row, value in enumerate(values):
            padded[row, : len(value)] = value
        batch[name] = torch.from_numpy(padded)
    return batch
