import math

import numpy as np
import pytest
import torch

from offline.evaluation import ranking_metrics as metrics


def test_rank_counts_better_items_and_breaks_ties_by_item_index() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.5], [0.1, 0.9, 0.5, 0.5], [0.4, 0.4, 0.4, 0.4]])

    ranks = metrics.target_ranks(scores, np.array([3, 4, 1]))

    assert ranks.tolist() == [2, 3, 1]


def test_an_excluded_item_neither_ranks_nor_stands_in_the_way() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5]])

    metrics.exclude(scores, np.array([0, 1, 1]), np.array([2, 3, 0]))

    ranks = metrics.target_ranks(scores, np.array([3, 3]))
    assert ranks.tolist() == [1, metrics.UNREACHABLE_RANK]
    assert metrics.recall_at_k(ranks, 200) == 0.5
    assert metrics.ndcg_at_k(ranks, 200) == 0.5


def test_top_items_come_best_first_with_ties_in_order_of_item_index() -> None:
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5], [-math.inf, 0.2, -math.inf, 0.3]])

    best, items = metrics.top_items(scores, 3)

    assert items.tolist() == [[2, 1, 3], [4, 2, 0]]
    assert best[0].tolist() == pytest.approx([0.9, 0.5, 0.5])


def test_top_items_agree_with_target_ranks() -> None:
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (20, 40)).astype(np.float32))
    _, items = metrics.top_items(scores, 15)

    for position in range(15):
        assert metrics.target_ranks(scores, items[:, position]).tolist() == [position + 1] * 20


def test_recall_ndcg_and_mrr_by_hand() -> None:
    ranks = np.array([1, 3, 11, 200])

    assert metrics.recall_at_k(ranks, 10) == 0.5
    assert metrics.ndcg_at_k(ranks, 10) == pytest.approx((1 + 1 / 2) / 4)  # 1 / log2(4) = 1 / 2
    assert metrics.mrr_at_k(ranks, 10) == pytest.approx((1 + 1 / 3) / 4)
    named = metrics.rank_metrics(ranks)
    assert named["recall@5"] == 0.5
    assert named["recall@200"] == 1.0
    assert named["mrr@200"] == pytest.approx((1 + 1 / 3 + 1 / 11 + 1 / 200) / 4)


def test_no_cases_have_no_metrics_and_no_warning() -> None:
    assert math.isnan(metrics.rank_metrics(np.array([], dtype=np.int64))["recall@10"])


def test_coverage_counts_distinct_items_and_ignores_empty_places() -> None:
    recommended = np.array([[1, 2, 0], [1, 3, 4]])

    assert metrics.coverage_at_k(recommended, 2, num_items=10) == 0.3
    assert metrics.coverage_at_k(recommended, 3, num_items=10) == 0.4


def test_novelty_is_the_mean_information_of_what_is_shown() -> None:
    information = metrics.self_information(np.array([3, 1, 0, 0]))  # shares 4/8, 2/8, 1/8, 1/8

    assert information.tolist() == [1.0, 2.0, 3.0, 3.0]
    assert metrics.novelty_at_k(np.array([[1, 2], [3, 0]]), 2, information=information) == 2.0


def test_a_score_that_is_not_a_number_is_never_ranked() -> None:
    scores = torch.tensor([[math.nan, 0.5, math.nan, 0.1]])

    assert metrics.top_items(scores.clone(), 4)[1].tolist() == [[2, 4, 0, 0]]
    assert metrics.target_ranks(scores.clone(), np.array([1])).tolist() == [metrics.UNREACHABLE_RANK]
    assert metrics.target_ranks(scores.clone(), np.array([4])).tolist() == [2]
