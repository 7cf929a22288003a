"""Histories of people, as user encoders read them."""

from dataclasses import dataclass

import numpy as np

from model_store.errors import InvalidInput


@dataclass(frozen=True)
class History:
    """What one user did, oldest first.

    Attributes:
        item_indices: (L,) int64, 1..N, no zeros.
        timestamps: (L,) int64 seconds (or ranks, for a model that reads no time).
        owner: Whose it is, for an encoder that keeps something of a user between requests; None: nothing is kept.
    """

    item_indices: np.ndarray
    timestamps: np.ndarray
    owner: str | None = None


def cut_history(history: History, length: int) -> History:
    """The latest ``length`` events of a history.

    Raises:
        InvalidInput: It is empty, has a row that is no item, or lacks timestamps.
    """
    items = np.asarray(history.item_indices)[-length:] if length else np.empty(0, dtype=np.int64)
    timestamps = np.asarray(history.timestamps)[-length:] if length else np.empty(0, dtype=np.int64)
    if len(items) == 0 or items.shape != timestamps.shape or items.min() < 1:
        raise InvalidInput(
            f"a history of {len(items)} items and {len(timestamps)} timestamps: "
            "expected at least one item, each with its timestamp, and item_index from 1 on"
        )
    return History(items, timestamps, history.owner)
