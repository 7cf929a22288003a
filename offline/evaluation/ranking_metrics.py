"""Ranking metrics over the whole catalogue, vectorised over users.

A case is one user, one history and one target item. Everything follows from the rank of the target, 1 being
the best: among items of equal score the lower item_index comes first, so that a rank never depends on the
order in which a library happens to return ties.
"""

from collections.abc import Sequence

import numpy as np
import torch

CUTOFFS = (5, 10, 50, 200)
EXCLUDED_SCORE = -float("inf")
# beyond any cutoff, also where the catalogue is smaller than the cutoff
UNREACHABLE_RANK = 2**62


def exclude(scores: torch.Tensor, case_rows: np.ndarray, item_indices: np.ndarray) -> None:
    """Takes items out of the ranking, in place.

    Args:
        scores: (B, N) float, column = item_index - 1.
        case_rows: (M,) int64, row of ``scores``.
        item_indices: (M,) int64, item that this row must not rank; 0 is ignored.
    """
    known = item_indices > 0
    rows = torch.from_numpy(case_rows[known].astype(np.int64))
    columns = torch.from_numpy(item_indices[known].astype(np.int64) - 1)
    scores[rows, columns] = EXCLUDED_SCORE


def target_ranks(scores: torch.Tensor, targets: np.ndarray) -> np.ndarray:
    """Ranks each case's target among all items that are not excluded.

    Args:
        scores: (B, N) float, column = item_index - 1, ``-inf`` = excluded.
        targets: (B,) int64, item_index in 1..N.

    Returns:
        (B,) int64, 1 = best. A target that is itself excluded gets ``UNREACHABLE_RANK``: a miss at any k. So does one
        whose score is not a number.
    """
    _exclude_nan(scores)
    num_items = scores.shape[1]
    columns = torch.from_numpy(targets.astype(np.int64) - 1)[:, None]  # (B, 1)
    target_scores = scores.gather(1, columns)  # (B, 1)
    better = (scores > target_scores).sum(dim=1)
    earlier = torch.arange(num_items)[None, :] < columns
    tied = ((scores == target_scores) & earlier).sum(dim=1)
    ranks = 1 + better + tied
    ranks[target_scores[:, 0] == EXCLUDED_SCORE] = UNREACHABLE_RANK
    return ranks.numpy()


def top_items(scores: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k items of each case, best first; ties in order of item_index.

    Args:
        scores: (B, N) float, column = item_index - 1, ``-inf`` = excluded.
        k: How many, cut to N.

    Returns:
        scores (B, K) float32, item_index (B, K) int64 with 0 where fewer than k items are left.
    """
    k = min(k, scores.shape[1])
    _exclude_nan(scores)
    best, columns = torch.topk(scores, k, dim=1)
    # topk leaves the order of ties open: put equal scores in order of item_index ...
    columns, by_index = columns.sort(dim=1)
    best, by_score = best.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, by_score)
    # ... and where a tie runs over the k-th place, let a full stable sort say who is in
    over = ((scores >= best[:, -1:]).sum(dim=1) > k).nonzero()[:, 0]
    if len(over):
        ordered, order = scores[over].sort(dim=1, descending=True, stable=True)
        best[over], columns[over] = ordered[:, :k], order[:, :k]
    item_indices = columns + 1
    item_indices[best == EXCLUDED_SCORE] = 0
    return best.numpy().astype(np.float32), item_indices.numpy()


def _exclude_nan(scores: torch.Tensor) -> None:
    """A score that is not a number compares with nothing: its item would come first."""
    scores.nan_to_num_(nan=EXCLUDED_SCORE, posinf=float("inf"), neginf=EXCLUDED_SCORE)


def recall_at_k(ranks: np.ndarray, k: int) -> float:
    """Share of cases whose target is among the first k (with one target also called hit rate).

    Args:
        ranks: (C,) int64, 1 = best.
        k: Cutoff, at least 1.
    """
    return float((ranks <= k).mean()) if len(ranks) else float("nan")


def ndcg_at_k(ranks: np.ndarray, k: int) -> float:
    """Mean of 1 / log2(rank + 1) where the rank is at most k, otherwise 0.

    Args:
        ranks: (C,) int64, 1 = best.
        k: Cutoff, at least 1.
    """
    return float(ndcg_gains(ranks, k).mean()) if len(ranks) else float("nan")


def ndcg_gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """The (C,) float64 gains whose mean is NDCG at k."""
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def mrr_at_k(ranks: np.ndarray, k: int) -> float:
    """Mean of 1 / rank where the rank is at most k, otherwise 0.

    Args:
        ranks: (C,) int64, 1 = best.
        k: Cutoff, at least 1.
    """
    return float(np.where(ranks <= k, 1.0 / ranks, 0.0).mean()) if len(ranks) else float("nan")


def rank_metrics(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Recall, NDCG and MRR at each cutoff, named ``recall@10`` and so on.

    Args:
        ranks: (C,) int64, 1 = best.
        cutoffs: Values of k.
    """
    metrics: dict[str, float] = {}
    for name, metric in (("recall", recall_at_k), ("ndcg", ndcg_at_k), ("mrr", mrr_at_k)):
        metrics |= {f"{name}@{k}": metric(ranks, k) for k in cutoffs}
    return metrics


def coverage_at_k(recommended: np.ndarray, k: int, *, num_items: int) -> float:
    """Share of the catalogue that is recommended to anybody.

    Args:
        recommended: (C, K) int64 item_index, best first, 0 = none.
        k: Cutoff, at most K.
        num_items: N.
    """
    items = np.unique(recommended[:, :k])
    return float((items > 0).sum() / num_items)


def self_information(interaction_counts: np.ndarray) -> np.ndarray:
    """How surprising each item is: -log2 of its share of all interactions, add-one smoothed.

    Args:
        interaction_counts: (N,) int64, row = item_index - 1.

    Returns:
        (N,) float64, bits.
    """
    return -np.log2((interaction_counts + 1.0) / (interaction_counts.sum() + len(interaction_counts)))


def novelty_at_k(recommended: np.ndarray, k: int, *, information: np.ndarray) -> float:
    """Mean self-information of what is recommended, in bits: the higher, the less popular.

    Args:
        recommended: (C, K) int64 item_index, best first, 0 = none.
        k: Cutoff, at most K.
        information: (N,) float64 from ``self_information``.
    """
    shown = recommended[:, :k]
    shown = shown[shown > 0]
    return float(information[shown - 1].mean()) if shown.size else float("nan")
