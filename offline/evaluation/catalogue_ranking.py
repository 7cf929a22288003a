"""Ranks the whole catalogue for every evaluation case, batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from model_store.encoding import Generator, UserEncoder
from model_store.people.histories import History
from offline.dataset.splits import EvaluationCases
from offline.evaluation.ranking_metrics import EXCLUDED_SCORE, exclude, target_ranks, top_items
from offline.job import job

# floats in one (B, N) score table
_MAX_SCORES = 32 * 2**20
_MAX_CASES_PER_BATCH = 256


class Scorer(Protocol):
    """Anything that scores a whole catalogue for histories."""

    def score(self, histories: list[History]) -> torch.Tensor:
        """Scores (B, N) float32, column = item_index - 1, that the caller may overwrite."""


class ModelScorer:
    """Cosine of user embedding and item embedding, as the service computes it.

    Args:
        directions: (N, D) float32 unit norm, of the items; zeros: an item without an embedding.
        encoder: The service's own user encoder over the same items.
    """

    def __init__(self, directions: np.ndarray, encoder: UserEncoder) -> None:
        # an item without a vector (unknown to a model of ids) cannot be recommended
        self._is_empty = torch.from_numpy(~directions.any(axis=1))
        self._items = torch.from_numpy(directions)
        self._encoder = encoder

    def score(self, histories: list[History]) -> torch.Tensor:
        """Cosines (B, N) float32; ``-inf`` for items without a vector."""
        users = torch.from_numpy(np.ascontiguousarray(self._encoder.encode(histories), dtype=np.float32))
        scores = users @ self._items.T
        scores[:, self._is_empty] = EXCLUDED_SCORE
        return scores


class TitleScorer:
    """Log-probabilities of the titles that a generator writes; what it does not write is not ranked.

    Args:
        generator: The service's own, over the same items.
        num_items: N.
        k: Titles written of each case.
        exclude_seen: Do not write titles of the history.
    """

    def __init__(self, generator: Generator, *, num_items: int, k: int, exclude_seen: bool) -> None:
        self._generator = generator
        self._num_items = num_items
        self._k = k
        self._exclude_seen = exclude_seen

    def score(self, histories: list[History]) -> torch.Tensor:
        """Log-probabilities (B, N) float32; ``-inf`` for what was not written."""
        scores = torch.full((len(histories), self._num_items), EXCLUDED_SCORE)
        for row, history in zip(scores, histories, strict=True):
            allowed = np.ones(self._num_items, dtype=bool)
            if self._exclude_seen:
                allowed[history.item_indices - 1] = False
            items, log_probabilities = self._generator.recommend(history, self._k, allowed)
            row[torch.from_numpy(items - 1)] = torch.from_numpy(log_probabilities)
        return scores


class ConstantScorer:
    """The same scores for everybody.

    Args:
        scores: (N,) float32.
    """

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = torch.from_numpy(scores)

    def score(self, histories: list[History]) -> torch.Tensor:
        """Scores (B, N) float32."""
        return self._scores.repeat(len(histories), 1)


@dataclass(frozen=True)
class Ranking:
    """What a system recommends in each case, and where the target came.

    Attributes:
        ranks: (C,) int64, 1 = best, ``UNREACHABLE_RANK`` = it cannot be recommended.
        recommended: (C, K) int64 item_index, best first, 0 = none.
        scores: (C, K) float32 of ``recommended``.
    """

    ranks: np.ndarray
    recommended: np.ndarray
    scores: np.ndarray


def history_of(cases: EvaluationCases, case: int) -> History:
    """The events before the target, oldest first."""
    events = slice(int(cases.sequences.offsets[cases.user_rows[case]]), int(cases.history_ends[case]))
    return History(
        item_indices=np.asarray(cases.sequences.item_indices[events], dtype=np.int64),
        timestamps=np.asarray(cases.sequences.timestamps[events], dtype=np.int64),
    )


def history_lengths(cases: EvaluationCases) -> np.ndarray:
    """(C,) int64, events before the target."""
    return np.asarray(cases.history_ends - cases.sequences.offsets[cases.user_rows], dtype=np.int64)


def rank_cases(
    scorer: Scorer,
    cases: EvaluationCases,
    *,
    num_items: int,
    k: int,
    exclude_seen: bool = True,
    description: str = "ranking",
) -> Ranking:
    """Ranks all N items for every case.

    Args:
        scorer: The system.
        cases: C histories and targets.
        num_items: N.
        k: How many recommendations to keep of each case.
        exclude_seen: Items of the history are not ranked, as the service does by default. A target that is in
            the history itself then counts as missed, for it would never be shown.
        description: Shown beside the progress bar.
    """
    num_cases, k = len(cases.targets), min(k, num_items)
    ranking = Ranking(
        ranks=np.zeros(num_cases, dtype=np.int64),
        recommended=np.zeros((num_cases, k), dtype=np.int64),
        scores=np.zeros((num_cases, k), dtype=np.float32),
    )
    batches = list(_batches(history_lengths(cases), num_items))
    for batch in job.progress(batches, description=description, unit="batch"):
        histories = [history_of(cases, case) for case in batch]
        scores = scorer.score(histories)
        if exclude_seen:
            rows = np.repeat(np.arange(len(batch)), [len(history.item_indices) for history in histories])
            exclude(scores, rows, np.concatenate([history.item_indices for history in histories]))
        ranking.ranks[batch] = target_ranks(scores, cases.targets[batch])
        ranking.scores[batch], ranking.recommended[batch] = top_items(scores, k)
    return ranking


def _batches(lengths: np.ndarray, num_items: int) -> Iterator[np.ndarray]:
    # of about equal length: the encoder pads to the longest of a batch
    size = max(1, min(_MAX_CASES_PER_BATCH, _MAX_SCORES // num_items))
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]
