"""How much each model of a blend weighs: chosen on validation, by NDCG@10 of the weighted sum of cosines.

Models come in one by one, the one that helps most first, and only as long as one helps. Then the weights are moved
one at a time, up and down, until none helps. What is compared are the items that some model has among its best, and
the target: another item would have to be far down in every list and first in their sum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from offline.evaluation.ranking_metrics import exclude, ndcg_at_k, recall_at_k

# of each model and case; more of them cost time and change no weight in its second digit
_BEST = 100
_FIRST_WEIGHTS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
_STEPS = (1.5, 0.67, 1.2, 0.83, 1.08, 0.93)
_LEAST_GAIN = 1e-5
# below every sum of cosines, and finite: infinity times a weight of zero is no number
_ABSENT = -1e6


@dataclass(frozen=True)
class Member:
    """One model's view of the validation cases.

    Attributes:
        name: Within the blend.
        users: (C, D) float32 unit norm, of the histories.
        items: (N, D) float32 unit norm; zeros for an item that the model does not know.
    """

    name: str
    users: torch.Tensor
    items: torch.Tensor


@dataclass(frozen=True)
class Weighed:
    """The weights that were chosen, and what they reach on the cases that they were chosen on.

    Attributes:
        weights: Name to weight, above 0, the largest 1; models that do not help are missing.
        metrics: ``ndcg@10`` and ``recall@10`` of the sum.
        alone: The same of each model alone.
    """

    weights: dict[str, float]
    metrics: dict[str, float]
    alone: dict[str, dict[str, float]]


def choose_weights(members: Sequence[Member], seen: Sequence[np.ndarray], targets: np.ndarray) -> Weighed:
    """Chooses the weights of a blend.

    Args:
        members: At least one, of the same C cases and N items.
        seen: Per case the item_index of its history, which is not ranked.
        targets: (C,) int64 item_index.
    """
    cases = _Cases(members, seen, targets)
    alone = {member.name: cases.metrics(cases.only(at)) for at, member in enumerate(members)}
    weights = cases.refine(cases.grow())
    weights /= weights.max()
    chosen = {member.name: round(float(one), 4) for member, one in zip(members, weights, strict=True) if one > 0}
    return Weighed(chosen, cases.metrics(weights), alone)


class _Cases:
    """The cosines of all models on the items that matter: (C, M, H)."""

    def __init__(self, members: Sequence[Member], seen: Sequence[np.ndarray], targets: np.ndarray) -> None:
        self._num_members = len(members)
        parts = [_cosines(members, seen, targets, rows) for rows in _batches(len(targets))]
        self._cosines = torch.cat(parts)

    def only(self, at: int) -> np.ndarray:
        weights = np.zeros(self._num_members)
        weights[at] = 1.0
        return weights

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """(C,) ranks of the targets, which are the first of the items; of equal scores the target comes last."""
        scores = self._cosines @ torch.from_numpy(weights.astype(np.float32))
        better = scores[:, 1:] >= scores[:, :1]
        ranks: np.ndarray = (1 + better.sum(dim=1)).numpy()
        return ranks

    def ndcg(self, weights: np.ndarray) -> float:
        return ndcg_at_k(self.ranks(weights), 10)

    def metrics(self, weights: np.ndarray) -> dict[str, float]:
        ranks = self.ranks(weights)
        return {"ndcg@10": ndcg_at_k(ranks, 10), "recall@10": recall_at_k(ranks, 10)}

    def grow(self) -> np.ndarray:
        """Adds the model that helps most, with the first weight that does, until none helps."""
        weights = max((self.only(at) for at in range(self._num_members)), key=self.ndcg)
        reached = self.ndcg(weights)
        while True:
            options = [
                _with(weights, int(at), first * weights.max())
                for at in np.flatnonzero(weights == 0)
                for first in _FIRST_WEIGHTS
            ]
            best = max(options, key=self.ndcg, default=weights)
            if self.ndcg(best) <= reached + _LEAST_GAIN:
                return weights
            weights, reached = best, self.ndcg(best)

    def refine(self, weights: np.ndarray) -> np.ndarray:
        """Moves one weight at a time until no move helps."""
        reached = self.ndcg(weights)
        while True:
            before = reached
            for at in np.flatnonzero(weights):
                for step in _STEPS:
                    moved = _with(weights, int(at), weights[at] * step)
                    if (found := self.ndcg(moved)) > reached:
                        weights, reached = moved, found
            if reached <= before + _LEAST_GAIN:
                return weights


def _with(weights: np.ndarray, at: int, value: float) -> np.ndarray:
    changed = weights.copy()
    changed[at] = value
    return changed


def _batches(num_cases: int) -> Iterator[slice]:
    for start in range(0, num_cases, 256):
        yield slice(start, min(start + 256, num_cases))


def _cosines(members: Sequence[Member], seen: Sequence[np.ndarray], targets: np.ndarray, rows: slice) -> torch.Tensor:
    """(B, 1 + H x best, H) of a batch; what is there twice, or was seen, is below every cosine."""
    scores = [member.users[rows] @ member.items.T for member in members]
    seen_rows = np.repeat(np.arange(len(scores[0])), [len(items) for items in seen[rows]])
    seen_items = np.concatenate(seen[rows])
    for one in scores:
        exclude(one, seen_rows, seen_items)
    best = min(_BEST, scores[0].shape[1])
    columns = torch.cat([one.topk(best, dim=1).indices for one in scores], dim=1)
    target_columns = torch.from_numpy(targets[rows].astype(np.int64) - 1)[:, None]
    columns, _ = columns.sort(dim=1)
    is_again = torch.zeros_like(columns, dtype=torch.bool)
    is_again[:, 1:] = columns[:, 1:] == columns[:, :-1]
    is_again |= columns == target_columns
    gathered = torch.stack([one.gather(1, torch.cat([target_columns, columns], dim=1)) for one in scores], dim=2)
    gathered[:, 1:][is_again] = _ABSENT
    return gathered.clamp(min=_ABSENT)
