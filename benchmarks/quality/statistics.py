"""Means with intervals: users are drawn with replacement, the same draws for every system, so that differences pair."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offline.evaluation.ranking_metrics import CUTOFFS, ndcg_gains

NUM_DRAWS = 1_000
_DRAWS_AT_ONCE = 50
METRICS = tuple(f"{name}@{k}" for name in ("recall", "ndcg") for k in CUTOFFS)


@dataclass(frozen=True)
class Interval:
    """A mean over users (and seeds), and where 95 % of the means of redrawn users lie."""

    mean: float
    low: float
    high: float


def user_gains(ranks: np.ndarray) -> np.ndarray:
    """What each user adds to each metric: (C, M) float64.

    Args:
        ranks: (S, C) int64 of S seeds, averaged over.
    """
    columns = [(ranks <= k).mean(axis=0, dtype=np.float64) for k in CUTOFFS]
    columns += [ndcg_gains(ranks, k).mean(axis=0) for k in CUTOFFS]
    return np.stack(columns, axis=1)


def redrawn_means(gains: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """(draws, M) means of the (C, M) gains over users drawn with replacement; the same users for the same seed."""
    draw = np.random.default_rng(seed)
    parts = []
    for _ in range(NUM_DRAWS // _DRAWS_AT_ONCE):
        weights = draw.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), size=_DRAWS_AT_ONCE)
        parts.append(weights @ gains / len(gains))
    return np.concatenate(parts)


def intervals(gains: np.ndarray) -> dict[str, Interval]:
    """Each metric with its interval."""
    low, high = np.quantile(redrawn_means(gains), (0.025, 0.975), axis=0)
    return {
        name: Interval(float(gains[:, at].mean()), float(low[at]), float(high[at])) for at, name in enumerate(METRICS)
    }


def differences(gains: np.ndarray, other: np.ndarray) -> dict[str, Interval]:
    """How much more the first system has than the other, user by user; an interval without 0 is no accident."""
    return intervals(gains - other)


def average_gain(values: Mapping[str, Interval], other: Mapping[str, Interval]) -> float:
    """The mean relative gain over recall and NDCG at 10, 50 and 200, as HLLM's paper has it (its table 7)."""
    names = [name for name in METRICS if int(name.partition("@")[2]) >= 10]
    return float(np.mean([values[name].mean / other[name].mean - 1 for name in names if other[name].mean > 0]))
