"""The most popular items of the training interactions."""

import numpy as np

from offline.dataset.dataset import UserSequences


def interaction_counts(sequences: UserSequences, num_items: int) -> np.ndarray:
    """Interactions of each item.

    Args:
        sequences: Training interactions.
        num_items: N.

    Returns:
        (N,) int64, row = item_index - 1.
    """
    return np.bincount(sequences.item_indices, minlength=num_items + 1)[1:].astype(np.int64)


def popularity_scores(counts: np.ndarray) -> np.ndarray:
    """Scores that rank items by popularity, then by item_index, without ties.

    Args:
        counts: (N,) int64 interactions of each item in training.

    Returns:
        (N,) float32, N for the most popular item down to 1. Exact for N up to 2 ** 24.
    """
    scores = np.empty(len(counts), dtype=np.float32)
    scores[np.argsort(-counts, kind="stable")] = np.arange(len(counts), 0, -1)
    return scores
