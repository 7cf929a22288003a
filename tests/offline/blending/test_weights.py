import numpy as np
import pytest
import torch
from torch.nn import functional

from offline.blending.weights import Member, choose_weights

NUM_CASES, NUM_ITEMS = 400, 60


def _members(*, noise: tuple[float, ...]) -> tuple[list[Member], np.ndarray]:
    """Models that see the target's direction through noise of their own; the last one sees nothing at all."""
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(NUM_ITEMS, (NUM_CASES,), generator=draw)
    members = []
    for at, level in enumerate(noise):
        items = functional.normalize(torch.randn(NUM_ITEMS, 16, generator=draw), dim=1)
        users = items[targets] + level * torch.randn(NUM_CASES, 16, generator=draw)
        members.append(Member(f"m{at}", functional.normalize(users, dim=1), items))
    return members, targets.numpy() + 1


def _ranks(members: list[Member], weights: dict[str, float], seen: list[np.ndarray], targets: np.ndarray) -> np.ndarray:
    scores = sum(weights.get(one.name, 0.0) * (one.users @ one.items.T) for one in members)
    ranks = []
    for row, items, target in zip(scores, seen, targets, strict=True):
        row[items - 1] = -torch.inf
        ranks.append(1 + int((row > row[target - 1]).sum()) if target not in items else 10**6)
    return np.array(ranks)


def test_the_sum_is_better_than_each_and_the_figures_are_those_of_the_whole_catalogue() -> None:
    members, targets = _members(noise=(0.5, 0.6, 50.0))
    draw = np.random.default_rng(1)
    seen = [draw.choice(NUM_ITEMS, 4, replace=False) + 1 for _ in range(NUM_CASES)]

    weighed = choose_weights(members, seen, targets)

    assert {"m0", "m1"} <= set(weighed.weights)
    assert max(weighed.weights.values()) == 1.0
    assert weighed.weights.get("m2", 0.0) < 0.35
    best = max(one["ndcg@10"] for one in weighed.alone.values())
    assert weighed.metrics["ndcg@10"] > best + 0.02
    for figures, weights in ((weighed.metrics, weighed.weights), (weighed.alone["m1"], {"m1": 1.0})):
        ranks = _ranks(members, weights, seen, targets)
        assert figures["recall@10"] == pytest.approx((ranks <= 10).mean(), abs=0.003)


def test_one_model_is_a_blend_of_itself() -> None:
    members, targets = _members(noise=(0.5,))
    weighed = choose_weights(members, [np.array([], dtype=np.int64)] * NUM_CASES, targets)
    assert weighed.weights == {"m0": 1.0}
    assert weighed.metrics == weighed.alone["m0"]
