"""Item-kNN: items that the same users touched, by the cosine of their users."""

import numpy as np
import torch

from model_store.people.histories import History
from offline.dataset.dataset import UserSequences
from offline.job import job

_ITEMS_PER_BATCH = 512


class ItemNeighbours:
    """The nearest K items of every item; a history's scores are the sums over its distinct items.

    Args:
        sequences: Training interactions.
        num_items: N.
        num_neighbours: K, cut to N. An item is no neighbour of itself.
    """

    def __init__(self, sequences: UserSequences, num_items: int, *, num_neighbours: int = 200) -> None:
        users = _unit_columns(sequences, num_items)
        self._num_items = num_items
        num_neighbours = min(num_neighbours, num_items)
        self._neighbours = torch.zeros((num_items, num_neighbours), dtype=torch.int64)
        self._cosines = torch.zeros((num_items, num_neighbours))
        starts = range(0, num_items, _ITEMS_PER_BATCH)
        for start in job.progress(starts, description="item neighbours", unit="batch"):
            rows = torch.arange(start, min(start + _ITEMS_PER_BATCH, num_items))
            columns = users.index_select(1, rows).to_dense()  # (U, n)
            cosines = torch.sparse.mm(users.T, columns).T  # (n, N)
            cosines[torch.arange(len(rows)), rows] = 0.0
            self._cosines[rows], self._neighbours[rows] = cosines.topk(num_neighbours)

    def score(self, histories: list[History]) -> torch.Tensor:
        """Sums of cosines (B, N) float32."""
        scores = torch.zeros((len(histories), self._num_items))
        for row, history in zip(scores, histories, strict=True):
            items = torch.from_numpy(np.unique(history.item_indices) - 1)
            row.index_add_(0, self._neighbours[items].flatten(), self._cosines[items].flatten())
        return scores


def _unit_columns(sequences: UserSequences, num_items: int) -> torch.Tensor:
    """(U, N) sparse: 1 / sqrt(users of the item) where the user touched it, so that columns have length 1."""
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    pairs = np.unique(np.stack([users, sequences.item_indices - 1]), axis=1).astype(np.int64)
    num_users = np.bincount(pairs[1], minlength=num_items)
    values = (1.0 / np.sqrt(num_users[pairs[1]])).astype(np.float32)
    return torch.sparse_coo_tensor(
        torch.from_numpy(pairs),
        torch.from_numpy(values),
        (len(sequences), num_items),
        is_coalesced=True,
        check_invariants=True,
    )
