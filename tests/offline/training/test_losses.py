import pytest
import torch
from torch.nn import functional

from offline.training.losses import catalogue_loss, own_items, sampled_loss

SCALE = torch.tensor(10.0)


def unit(*rows: tuple[float, ...]) -> torch.Tensor:
    return functional.normalize(torch.tensor(rows), dim=-1)


def test_catalogue_loss_is_cross_entropy_of_scaled_cosines() -> None:
    torch.manual_seed(0)
    queries, items, targets = torch.randn(5, 8), torch.randn(20, 8), torch.tensor([0, 3, 3, 7, 19])

    result = catalogue_loss(queries, items, targets, scale=SCALE)

    cosines = functional.cosine_similarity(queries[:, None], items[None], dim=-1)
    assert torch.allclose(result.loss, functional.cross_entropy(10 * cosines, targets), atol=1e-5)
    assert result.survivors == 19
    assert result.survival == 1


def test_catalogue_loss_drops_near_copies_of_the_target_but_never_the_target() -> None:
    items = unit((1.0, 0.0), (1.0, 0.01), (0.0, 1.0))
    queries = unit((1.0, 0.2))

    result = catalogue_loss(queries, items, torch.tensor([0]), scale=SCALE)

    cosines = functional.cosine_similarity(queries[:, None], items[None], dim=-1)
    without_the_copy = functional.cross_entropy(10 * cosines[:, [0, 2]], torch.tensor([0]))
    assert torch.allclose(result.loss, without_the_copy, atol=1e-5)
    assert result.survivors == 1


def test_a_threshold_of_one_keeps_every_negative() -> None:
    items = unit((1.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    kept = catalogue_loss(items[:1], items, torch.tensor([0]), scale=SCALE, false_negative_cosine=1.0)
    assert kept.survivors == 2


def test_collapsed_embeddings_leave_no_negative_and_no_loss() -> None:
    items = torch.ones(300, 4)
    result = catalogue_loss(items[:5], items, torch.arange(5), scale=SCALE)
    assert result.survival == 0
    assert result.loss == pytest.approx(0.0, abs=1e-6)


def test_sampled_loss_counts_only_negatives_that_are_neither_own_nor_copies() -> None:
    targets = unit((1.0, 0.0), (0.0, 1.0))
    negatives = unit((1.0, 0.001), (-1.0, 0.0), (0.6, 0.8))
    queries = unit((1.0, 0.1), (0.1, 1.0))
    is_own = torch.tensor([[False, False, False], [False, False, True]])

    result = sampled_loss(queries, targets, negatives, scale=SCALE, is_own=is_own)

    def expected(row: int, kept: list[int]) -> torch.Tensor:
        candidates = torch.cat((targets[row : row + 1], negatives[kept]))
        return functional.cross_entropy(10 * candidates @ queries[row], torch.tensor(0))

    assert torch.allclose(result.loss, (expected(0, [1, 2]) + expected(1, [0, 1])) / 2, atol=1e-5)
    assert result.survivors == 2
    assert result.offered == 3


def test_the_filter_is_exact_under_autocast() -> None:
    angles = torch.tensor([0.0, 0.13, 0.15])  # cosines with the first: 1, 0.9916, 0.9888
    items = torch.stack((angles.cos(), angles.sin()), dim=1)
    items = torch.cat((items, -torch.eye(2).repeat(100, 1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = catalogue_loss(items[:1], items, torch.tensor([0]), scale=SCALE)
    assert result.survivors == len(items) - 2


def test_own_items_finds_each_histories_items_among_unsorted_repeated_negatives() -> None:
    histories = torch.tensor([[3, 9, 0], [5, 0, 0]])
    negatives = torch.tensor([9, 1, 3, 9, 7])
    assert own_items(histories, negatives).tolist() == [
        [True, False, True, True, False],
        [False, False, False, False, False],
    ]
