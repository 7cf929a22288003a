"""Constraints, the planner and retrieval, and reasons, against the long way round."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.index import build_index
from model_store.index.vectors import normalize
from service.engine.served_bundle import MaskCache
from service.recommend.candidates.admissible import Admissible, exclusions
from service.recommend.ranking.explain import LIKENESS_TEMPERATURE, likeness_weights, reasons
from service.recommend.ranking.planner import choose
from service.recommend.ranking.retrieve import exact_scan, retrieve
from service.recommend.ranking.sources import first_kept
from tests.oracles import random_shops

EMPTY_ROW = dict.fromkeys(random_shops.TYPES)


@settings(max_examples=100, deadline=None)
@given(
    mask=st.none() | st.lists(st.booleans(), min_size=12, max_size=12),
    excluded=st.sets(st.integers(1, 12)),
    within=st.lists(st.booleans(), min_size=12, max_size=12),
    want=st.integers(0, 14),
)
def test_every_step_honours_the_same_admissible_set(
    mask: list[bool] | None, excluded: set[int], within: list[bool], want: int
) -> None:
    catalogue = random_shops.catalogue_of([EMPTY_ROW] * 12)
    chosen = exclusions(catalogue, [*(f"i{number}" for number in excluded), "unknown"])
    admissible = Admissible(12, None if mask is None else np.array(mask), chosen)
    expected = [n for n in range(1, 13) if n not in excluded and (mask is None or mask[n - 1])]
    assert admissible.indices().tolist() == expected
    assert admissible.count() == len(expected)
    assert (np.flatnonzero(admissible.allowed()) + 1).tolist() == expected
    assert admissible.without(np.array([3, 5, 3])).indices().tolist() == [n for n in expected if n not in {3, 5}]
    fewer = admissible.within(np.array(within))
    assert fewer.indices().tolist() == [n for n in expected if within[n - 1]]
    assert fewer.count() == len(fewer.indices())
    # popularity rises with the row
    assert first_kept(catalogue.popular(), want, admissible).tolist() == expected[::-1][:want]


def test_what_is_kept_of_a_bundle_is_bounded_in_bytes() -> None:
    cache = MaskCache(max_bytes=100)
    made: list[int] = []

    def make(key: int, size: int) -> np.ndarray:
        made.append(key)
        return np.full(size, key, dtype=np.uint8)

    for key, size in ((1, 40), (2, 40), (1, 40), (3, 40), (1, 40), (2, 40), (4, 101), (4, 101), (2, 40)):
        kept = cache.get(key, lambda key=key, size=size: make(key, size))
        assert kept.tolist() == [key] * size
        assert not kept.flags.writeable
        assert cache.num_bytes <= 100
    # 2 went when 3 came, as 1 had been used since; what is too large is not kept, and takes no room from others
    assert made == [1, 2, 3, 2, 4, 4]


@dataclass
class ForgetfulIndex:
    """Finds every second of the nearest items only, as a bad approximate index might."""

    vectors: np.ndarray
    factory: str = "Flat"

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        scores = self.vectors @ queries[0] / np.linalg.norm(self.vectors, axis=1) / np.linalg.norm(queries[0])
        order = np.argsort(-scores, kind="stable")
        order = order[np.isin(order + 1, allowed)] if allowed is not None else order
        found = order[:k:2]
        padding = np.zeros(k - len(found), dtype=np.int64)
        return (
            np.concatenate([scores[found], padding - np.inf])[None].astype(np.float32),
            np.concatenate([found + 1, padding])[None],
        )


@dataclass
class Vectors:
    """The part of a bundle that retrieval uses."""

    vectors: np.ndarray
    index: Any

    def item_directions(self, item_indices: np.ndarray) -> np.ndarray:
        return normalize(self.vectors[item_indices - 1])


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 99),
    excluded=st.sets(st.integers(1, 30)),
    want=st.integers(1, 40),
    share=st.sampled_from([None, 0.0, 0.1, 0.5, 0.95]),
    is_forgetful=st.booleans(),
    few=st.sampled_from([0, 5, 2_000]),
    spare=st.sampled_from([0, 4, 1_000]),
)
def test_k_items_come_back_whenever_k_are_admissible_whatever_the_plan(
    seed: int, excluded: set[int], want: int, share: float | None, is_forgetful: bool, few: int, spare: int
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(30, 4)).astype(np.float32)
    mask = None if share is None else random.random(30) < share
    admissible = Admissible(30, mask, np.array(sorted(excluded), dtype=np.int64))
    index = ForgetfulIndex(vectors) if is_forgetful else build_index(vectors, factory="Flat").index
    bundle: Any = Vectors(vectors, index)
    query = random.normal(size=4).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.recommend.ranking.planner._FEW_ITEMS", few)
        patch.setattr("service.recommend.ranking.planner._MANY_SPARE", spare)
        found, trace = retrieve(bundle, query, want, admissible)
    scores = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    expected = sorted(admissible.indices().tolist(), key=lambda item: -scores[item - 1])[:want]
    assert len(found) == len(expected)
    assert set(found.item_indices.tolist()) <= set(admissible.indices().tolist())
    np.testing.assert_allclose(found.scores, scores[found.item_indices - 1], rtol=1e-4, atol=1e-6)
    if not expected:
        assert trace.plans == ()
        return
    # where the index finds what there is, or was not asked, nothing nearer was missed
    if not is_forgetful or trace.plans[-1].name == "exact_scan":
        assert found.item_indices.tolist() == expected
    # it is the index's fault if it was to find all that there is: given a selector, or asked for every item
    is_fault = any(
        plan.num_found < len(expected) and (plan.name == "selector" or plan.num_fetched == 30) for plan in trace.plans
    )
    assert bool(trace.warnings) is is_fault
    assert trace.plans[-1].num_found == len(expected)
    assert all(plan.num_admissible == admissible.count() for plan in trace.plans)


@pytest.mark.parametrize(
    ("num_admissible", "num_excluded", "want", "factory", "name", "fetch"),
    [
        (100_000, 0, 10, "", "over_fetch", 10),
        (99_900, 100, 10, "", "over_fetch", 110),
        (98_000, 2_000, 10, "", "selector", 10),  # too many to fetch around
        (90_000, 0, 10, "Flat", "over_fetch", 23),
        (50_000, 100, 10, "Flat", "over_fetch", 140),
        (10_000, 0, 10, "Flat", "selector", 10),
        (10_000, 0, 10, "OPQ16,IVF512,Flat", "over_fetch", 200),  # a selector would make it look at everything
        (5_000, 0, 100, "HNSW32,Flat", "selector", 100),
        (50_000, 0, 2_000, "SQfp16", "selector", 2_000),
        (2_000, 0, 10, "IVF512,Flat", "exact_scan", 2_000),
        (2_000, 0, 10, "Flat", "exact_scan", 2_000),
        (5, 0, 5, "Flat", "exact_scan", 5),
    ],
)
def test_the_plan_follows_from_how_many_are_admissible(
    num_admissible: int, num_excluded: int, want: int, factory: str, name: str, fetch: int
) -> None:
    choice = choose(
        num_items=100_000,
        num_admissible=num_admissible,
        num_excluded=num_excluded,
        want=want,
        is_filtered=bool(factory),
        factory=factory,
    )
    assert (choice.name, choice.fetch) == (name, fetch)


def test_a_filter_that_leaves_nothing_near_is_answered_by_the_next_plan() -> None:
    # what may be returned lies on the other side
    vectors = np.concatenate([np.tile([1.0, 0.0], (60, 1)), np.tile([-1.0, 0.0], (40, 1))]).astype(np.float32)
    vectors[:, 1] = np.linspace(0.1, 0.2, 100)
    admissible = Admissible(100, vectors[:, 0] < 0, np.empty(0, dtype=np.int64))
    bundle: Any = Vectors(vectors, build_index(vectors, factory="Flat").index)
    found, trace = retrieve(bundle, np.array([1.0, 0.0], dtype=np.float32), 5, admissible)
    assert [plan.name for plan in trace.plans] == ["over_fetch", "exact_scan"]
    assert not trace.warnings
    assert found.item_indices.tolist() == [100, 99, 98, 97, 96]


def test_an_exact_scan_in_several_pieces_is_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    bundle: Any = Vectors(vectors, ForgetfulIndex(vectors))
    query, allowed = vectors[7], np.arange(1, 51)
    whole = exact_scan(bundle, query, 20, allowed)
    monkeypatch.setattr("service.recommend.ranking.retrieve._ROWS_AT_ONCE", 7)
    pieces = exact_scan(bundle, query, 20, allowed)
    assert whole.item_indices.tolist() == pieces.item_indices.tolist()
    assert whole.item_indices[0] == 8
    assert whole.scores[0] == pytest.approx(1.0)


def test_an_item_of_the_history_weighs_by_its_likeness() -> None:
    items = np.array([[2, 0], [0, 3]], dtype=np.float32)
    history = np.array([[0, 1], [1, 0], [1, 1]], dtype=np.float32)
    weights = likeness_weights(normalize(items), normalize(history))
    cosines = np.array([[0, 1, 0.5**0.5], [1, 0, 0.5**0.5]])
    expected = np.exp(cosines / LIKENESS_TEMPERATURE)
    np.testing.assert_allclose(weights, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)


def test_the_same_item_twice_in_a_history_has_its_weights_added_up() -> None:
    weights = np.array([[0.1, 0.2, 0.4, 0.3], [0.25, 0.25, 0.25, 0.25]])
    first, second = reasons(weights, np.array([7, 9, 7, 3]))
    assert [item for item, _ in first] == [7, 3, 9]
    assert [weight for _, weight in first] == pytest.approx([0.5, 0.3, 0.2])
    # of equal weights the latest item comes first
    assert [item for item, _ in reasons(weights[1:, 1:], np.array([9, 7, 3]))[0]] == [3, 7, 9]
    assert dict(second) == pytest.approx({7: 0.5, 9: 0.25, 3: 0.25})


@settings(max_examples=100, deadline=None)
@given(history=st.lists(st.integers(1, 6), min_size=1, max_size=20), seed=st.integers(0, 99), k=st.integers(1, 5))
def test_every_read_item_is_a_reason_once_and_the_weights_sum_to_1(history: list[int], seed: int, k: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(7, 3)).astype(np.float32)
    vectors[6] = 0.0
    weights = likeness_weights(normalize(vectors[1 : k + 1]), normalize(vectors[history]))
    for because in reasons(weights, np.array(history)):
        assert sorted(item for item, _ in because) == sorted(set(history))
        assert sum(weight for _, weight in because) == pytest.approx(1.0, abs=1e-12)
        assert [weight for _, weight in because] == sorted((weight for _, weight in because), reverse=True)


def test_reasons_are_bounded_and_the_best_items_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.recommend.ranking.explain._MAX_REASONS", 10)
    explained = reasons(np.ones((5, 4)), np.array([1, 2, 3, 4]))
    assert [len(because) for because in explained] == [4, 4, 0, 0, 0]
    assert [len(because) for because in reasons(np.ones((2, 12)), np.arange(1, 13))] == [12, 0]
