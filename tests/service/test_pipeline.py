"""Constraints, retrieval and ranking, against the long way round."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue import Catalogue
from service.errors import InvalidRequest
from service.pipeline.constraints import Admissible, Condition, exclusions, filter_mask
from service.pipeline.explaining import LIKENESS_TEMPERATURE, likeness_weights, reasons
from service.pipeline.fallback import popular_items
from service.pipeline.ranking import rank
from service.pipeline.retrieval import exact_scan, retrieve

_COLOURS = st.sampled_from(["red", "green", "blue"])
_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "colour": st.none() | _COLOURS,
            "price": st.none() | st.floats(-3, 3).map(lambda price: round(price, 1)) | st.just(math.nan),
            "size": st.none() | st.integers(-3, 3),
            "is_new": st.none() | st.booleans(),
            "tags": st.none() | st.lists(_COLOURS, max_size=3),
        }
    ),
    min_size=1,
    max_size=12,
)
_TYPES = {
    "colour": pa.string(),
    "price": pa.float64(),
    "size": pa.int64(),
    "is_new": pa.bool_(),
    "tags": pa.list_(pa.string()),
}
_NUMBERS = st.integers(-3, 3) | st.floats(-3, 3).map(lambda price: round(price, 1))
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "colour": _COLOURS,
    "price": _NUMBERS,
    "size": _NUMBERS,
    "is_new": st.booleans(),
    "tags": _COLOURS,
}


def _catalogue(rows: list[dict[str, Any]]) -> Catalogue:
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in _TYPES.items()}
    ids = [f"i{number}" for number in range(1, len(rows) + 1)]
    popularity = pa.array(range(len(rows)), pa.int64())
    return Catalogue.from_table(pa.table({"item_id": ids, "title": ids, **columns, "popularity": popularity}))


@st.composite
def _conditions(draw: st.DrawFn) -> dict[str, Condition]:
    conditions = {}
    for name in draw(st.lists(st.sampled_from(sorted(_TYPES)), unique=True, max_size=3)):
        values = st.none() | st.lists(_VALUES[name], min_size=1, max_size=3).map(tuple)
        bounds = st.none() | _VALUES[name] if name in {"price", "size", "colour"} else st.none()
        conditions[name] = Condition(
            any_of=draw(values),
            none_of=draw(values),
            gte=draw(bounds),
            lte=draw(bounds),
            exists=draw(st.none() | st.booleans()),
        )
    return conditions


def _passes(value: Any, condition: Condition) -> bool:
    is_missing = value is None or (isinstance(value, float) and math.isnan(value))
    members = set() if is_missing else set(value) if isinstance(value, list) else {value}
    return all(
        (
            condition.any_of is None or bool(members & set(condition.any_of)),
            condition.none_of is None or not members & set(condition.none_of),
            condition.gte is None or (not is_missing and value >= condition.gte),
            condition.lte is None or (not is_missing and value <= condition.lte),
            condition.exists is None or condition.exists == (not is_missing),
        )
    )


@settings(max_examples=200, deadline=None)
@given(rows=_ROWS, conditions=_conditions())
def test_a_filter_passes_what_each_of_its_conditions_passes(
    rows: list[dict[str, Any]], conditions: dict[str, Condition]
) -> None:
    mask = filter_mask(_catalogue(rows), conditions)
    expected = [all(_passes(row[name], condition) for name, condition in conditions.items()) for row in rows]
    assert [True] * len(rows) == expected if mask is None else mask.tolist() == expected


@settings(max_examples=100, deadline=None)
@given(
    mask=st.none() | st.lists(st.booleans(), min_size=12, max_size=12),
    excluded=st.sets(st.integers(1, 12)),
    want=st.integers(0, 14),
)
def test_every_step_honours_the_same_admissible_set(mask: list[bool] | None, excluded: set[int], want: int) -> None:
    rows = [{"colour": None, "price": None, "size": None, "is_new": None, "tags": None}] * 12
    catalogue = _catalogue(rows)
    chosen = exclusions(catalogue, [*(f"i{number}" for number in excluded), "unknown"])
    admissible = Admissible(12, None if mask is None else np.array(mask), chosen)
    expected = [n for n in range(1, 13) if n not in excluded and (mask is None or mask[n - 1])]
    assert admissible.indices().tolist() == expected
    assert admissible.count() == len(expected)
    assert (np.flatnonzero(admissible.allowed()) + 1).tolist() == expected
    assert admissible.without(np.array([3, 5, 3])).indices().tolist() == [n for n in expected if n not in {3, 5}]
    # popularity rises with the row
    assert popular_items(catalogue, want, admissible).tolist() == expected[::-1][:want]


@pytest.mark.parametrize(("stored", "asked"), [(0.0, -0.0), (-0.0, 0.0), (-0.0, 0)])
def test_zero_has_no_sign(stored: float, asked: float) -> None:
    rows = [{"colour": None, "price": stored, "size": None, "is_new": None, "tags": None}]
    for condition, passes in ((Condition(any_of=(asked,)), True), (Condition(none_of=(asked,)), False)):
        mask = filter_mask(_catalogue(rows), {"price": condition})
        assert mask is not None
        assert mask.tolist() == [passes]


@pytest.mark.parametrize(
    "condition", [Condition(gte=True), Condition(any_of=("red",)), Condition(none_of=(True,)), Condition(lte=10**400)]
)
def test_a_value_of_another_type_is_refused(condition: Condition) -> None:
    rows = [{"colour": None, "price": None, "size": 1, "is_new": None, "tags": None}]
    with pytest.raises(InvalidRequest, match="size"):
        filter_mask(_catalogue(rows), {"size": condition})


@dataclass
class ForgetfulIndex:
    """Finds every second of the nearest items only, as a bad approximate index might."""

    vectors: np.ndarray

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
    index: ForgetfulIndex

    def item_embeddings(self, item_indices: np.ndarray) -> np.ndarray:
        return self.vectors[item_indices - 1]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 99), excluded=st.sets(st.integers(1, 30)), want=st.integers(1, 40), has_mask=st.booleans())
def test_k_items_come_back_whenever_k_are_admissible(seed: int, excluded: set[int], want: int, has_mask: bool) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(30, 4)).astype(np.float32)
    mask = random.random(30) < 0.7 if has_mask else None
    admissible = Admissible(30, mask, np.array(sorted(excluded), dtype=np.int64))
    bundle: Any = Vectors(vectors, ForgetfulIndex(vectors))
    query = random.normal(size=4).astype(np.float32)
    found = retrieve(bundle, query, want, admissible)
    scores = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    expected = sorted(admissible.indices().tolist(), key=lambda item: -scores[item - 1])[:want]
    assert len(found.item_indices) == len(expected)
    assert set(found.item_indices.tolist()) <= set(admissible.indices().tolist())
    np.testing.assert_allclose(found.scores, scores[found.item_indices - 1], rtol=1e-4, atol=1e-6)
    # where the index fell short, or was not asked, nothing nearer was missed
    if has_mask or found.warning is not None:
        assert found.item_indices.tolist() == expected
    if not has_mask and not excluded and len(expected) > 1:
        assert found.warning is not None
        assert found.warning.startswith("exact_scan: ")


def test_an_exact_scan_in_several_pieces_is_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    bundle: Any = Vectors(vectors, ForgetfulIndex(vectors))
    query, allowed = vectors[7], np.arange(1, 51)
    whole = exact_scan(bundle, query, 20, allowed)
    monkeypatch.setattr("service.pipeline.retrieval._ROWS_AT_ONCE", 7)
    pieces = exact_scan(bundle, query, 20, allowed)
    assert whole.item_indices.tolist() == pieces.item_indices.tolist()
    assert whole.item_indices[0] == 8
    assert whole.scores[0] == pytest.approx(1.0)


def test_diversity_prefers_what_is_unlike_what_was_chosen() -> None:
    # three near copies and one item in another direction
    vectors = np.array([[1, 0], [1, 0.01], [1, 0.02], [0, 1]], dtype=np.float32)
    scores = np.array([0.9, 0.89, 0.88, 0.5], dtype=np.float32)
    assert rank(vectors, scores, 3, diversity=0.0).tolist() == [0, 1, 2]
    assert rank(vectors, scores, 2, diversity=0.5).tolist() == [0, 3]
    assert sorted(rank(vectors, scores, 9, diversity=1.0).tolist()) == [0, 1, 2, 3]
    assert rank(vectors[:0], scores[:0], 3, diversity=0.5).tolist() == []


def test_an_item_of_the_history_weighs_by_its_likeness() -> None:
    items = np.array([[2, 0], [0, 3]], dtype=np.float32)
    history = np.array([[0, 1], [1, 0], [1, 1]], dtype=np.float32)
    weights = likeness_weights(items, history)
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
    weights = likeness_weights(vectors[1 : k + 1], vectors[history])
    for because in reasons(weights, np.array(history)):
        assert sorted(item for item, _ in because) == sorted(set(history))
        assert sum(weight for _, weight in because) == pytest.approx(1.0, abs=1e-12)
        assert [weight for _, weight in because] == sorted((weight for _, weight in because), reverse=True)


def test_reasons_are_bounded_and_the_best_items_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.pipeline.explaining._MAX_REASONS", 10)
    explained = reasons(np.ones((5, 4)), np.array([1, 2, 3, 4]))
    assert [len(because) for because in explained] == [4, 4, 0, 0, 0]
    assert [len(because) for because in reasons(np.ones((2, 12)), np.arange(1, 13))] == [12, 0]
