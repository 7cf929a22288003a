"""Segments of a catalogue and what is popular in them, against the long way round."""

import gc
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue.catalogue import Catalogue
from model_store.index.vectors import normalize
from service.errors import InvalidRequest
from service.recommend.ask import SegmentWish
from service.recommend.candidates import segments as module
from service.recommend.candidates.admissible import Admissible
from service.recommend.candidates.segments import Segments, category_like, check_segment, most_frequent
from service.recommend.ranking.sources import first_kept, latest_vector

_COLOURS = ["red", "green", "blue"]
_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "colour": st.none() | st.sampled_from(_COLOURS),
            "size": st.none() | st.integers(0, 2),
            "is_new": st.none() | st.booleans(),
            "tags": st.none() | st.lists(st.sampled_from(_COLOURS) | st.none(), max_size=4),
            "popularity": st.integers(0, 5),
        }
    ),
    min_size=1,
    max_size=20,
)
_TYPES = {
    "colour": pa.string(),
    "size": pa.int64(),
    "is_new": pa.bool_(),
    "tags": pa.list_(pa.string()),
    "popularity": pa.int64(),
}


def _catalogue(rows: list[dict[str, Any]]) -> Catalogue:
    ids = [f"i{number}" for number in range(1, len(rows) + 1)]
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in _TYPES.items()}
    return Catalogue.from_table(pa.table({"item_id": ids, "title": ids, **columns}))


def _of_columns(**columns: Any) -> Catalogue:
    ids = [f"i{number}" for number in range(1, len(next(iter(columns.values()))) + 1)]
    return Catalogue.from_table(pa.table({"item_id": ids, "title": ids, **columns}))


def _has(row: dict[str, Any], attribute: str, value: Any) -> bool:
    found = row[attribute]
    return value in found if isinstance(found, list) else found is not None and found == value


@settings(max_examples=200, deadline=None)
@given(
    rows=_ROWS, attribute=st.sampled_from(["colour", "size", "is_new", "tags"]), excluded=st.sets(st.integers(1, 20))
)
def test_a_segment_has_its_items_and_no_others_the_most_popular_first(
    rows: list[dict[str, Any]], attribute: str, excluded: set[int]
) -> None:
    catalogue = _catalogue(rows)
    values: list[Any] = {"size": [0, 1, 2], "is_new": [True, False]}.get(attribute, _COLOURS)
    by_popularity = sorted(range(1, len(rows) + 1), key=lambda item: -rows[item - 1]["popularity"])
    gone = np.array(sorted(item for item in excluded if item <= len(rows)), dtype=np.int64)
    admissible = Admissible(len(rows), None, gone)
    for value in values:
        wish = SegmentWish(attribute, value)
        order = Segments().order(catalogue, wish, np.empty(0, dtype=np.int64))
        members = [item for item in by_popularity if _has(rows[item - 1], attribute, value)]
        assert ([] if order is None else order.tolist()) == members
        left = [item for item in by_popularity if item not in excluded]
        for want in (0, 1, 3, 30):
            assert first_kept(catalogue.popular(), want, admissible).tolist() == left[:want]
        if order is not None:
            assert first_kept(order, 1, admissible).tolist() == [item for item in members if item not in excluded][:1]


@settings(max_examples=200, deadline=None)
@given(
    rows=_ROWS,
    attribute=st.sampled_from(["colour", "size", "tags"]),
    history=st.lists(st.integers(1, 20), max_size=30),
)
def test_a_users_segment_is_the_most_frequent_value_of_the_latest_items(
    rows: list[dict[str, Any]], attribute: str, history: list[int]
) -> None:
    catalogue = _catalogue(rows)
    items = [item for item in history if item <= len(rows)]
    found = most_frequent(catalogue, attribute, np.array(items, dtype=np.int64))
    counts: Counter[Any] = Counter()
    for item in items[-20:]:
        value = rows[item - 1][attribute]
        counts.update({one for one in (value if isinstance(value, list) else [value]) if one is not None})
    if not counts:
        assert found is None
        return
    assert counts[found] == max(counts.values())
    # of equally frequent ones none was met later, but together with it
    for item in reversed(items[-20:]):
        best = [
            one for one in _COLOURS + [0, 1, 2] if _has(rows[item - 1], attribute, one) and counts[one] == counts[found]
        ]
        if best:
            assert found in best
            break


def test_a_segment_and_a_user_without_one_are_told_apart() -> None:
    catalogue = _of_columns(colour=["red", "red", "blue", None])
    segments = Segments("colour")
    none = np.empty(0, dtype=np.int64)
    assert segments.order(catalogue, SegmentWish(), none) is None
    assert segments.order(catalogue, SegmentWish(), np.array([4])) is None
    assert segments.order(catalogue, SegmentWish(), np.array([3, 2, 1])).tolist() == [1, 2]  # type: ignore[union-attr]
    assert segments.order(catalogue, SegmentWish(value="blue"), np.array([1])).tolist() == [3]  # type: ignore[union-attr]
    for unknown in ("green", 1, True):
        assert segments.order(catalogue, SegmentWish(value=unknown), none) is None


def test_true_is_not_one() -> None:
    catalogue = _of_columns(size=pa.array([1, 0, 1]), is_new=pa.array([True, False, True]))
    none = np.empty(0, dtype=np.int64)
    segments = Segments()
    assert segments.order(catalogue, SegmentWish("size", 1), none).tolist() == [1, 3]  # type: ignore[union-attr]
    assert segments.order(catalogue, SegmentWish("size", True), none) is None
    assert segments.order(catalogue, SegmentWish("is_new", True), none).tolist() == [1, 3]  # type: ignore[union-attr]
    assert segments.order(catalogue, SegmentWish("is_new", 1), none) is None


def test_a_category_is_found_by_its_name_or_by_its_looks() -> None:
    numbers = range(200)
    brand = [f"brand {number % 150}" for number in numbers]
    shelf = [f"shelf {number % 8}" for number in numbers]
    language = ["en"] * 198 + ["fr"] * 2
    unique = [f"sku {number}" for number in numbers]
    rare = ["gift"] * 40 + [None] * 160
    text = {"brand": brand, "sku": unique, "language": language, "rare": rare, "shelf": shelf}
    price = pa.array([float(number) for number in numbers])
    assert category_like(_of_columns(**text, price=price)) == "shelf"
    assert category_like(_of_columns(**text, genre=language)) == "genre"
    assert category_like(_of_columns(**text, genre=unique)) == "shelf"
    assert category_like(_of_columns(**text, category=pa.array([[one] for one in shelf]))) == "category"
    assert category_like(_of_columns(sku=unique, price=price)) is None
    assert Segments().build(_of_columns(sku=unique), SegmentWish()) is None


def test_an_attribute_of_the_settings_that_a_catalogue_lacks_gives_no_segments(
    caplog: pytest.LogCaptureFixture,
) -> None:
    catalogue = _of_columns(shelf=["a", "a", "b", "b"], price=pa.array([1.0, 2.0, 3.0, 4.0]))
    for name in ("colour", "price"):
        assert Segments(name).order(catalogue, SegmentWish(), np.array([1])) is None
        assert name in caplog.text
    assert Segments("shelf").order(catalogue, SegmentWish(), np.array([1])) is not None


def test_what_cannot_be_a_segment_is_the_callers_mistake() -> None:
    catalogue = _of_columns(shelf=["a", "b"], price=pa.array([1.0, 2.0]), prices=pa.array([[1.0], [2.0]]))
    check_segment(catalogue, SegmentWish())
    check_segment(catalogue, SegmentWish("shelf"))
    with pytest.raises(InvalidRequest, match="colour") as unknown:
        check_segment(catalogue, SegmentWish("colour"))
    assert unknown.value.code == "unknown_attribute"
    for name in ("price", "prices"):
        with pytest.raises(InvalidRequest, match=name) as wrong:
            check_segment(catalogue, SegmentWish(name))
        assert wrong.value.code == "invalid_segment"
    with pytest.raises(InvalidRequest):
        check_segment(catalogue, SegmentWish("title"))


def test_an_attribute_of_too_many_values_gives_no_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_VALUES", 3)
    monkeypatch.setattr(module, "_MAX_VALUES_PER_ITEM", 2)
    few, many = ["a", "b", "c", "a"], ["a", "b", "c", "d"]
    long = pa.array([["a", "b"], ["a", "b"], ["a", "b"], ["a", "b", "c"]])
    catalogue = _of_columns(few=few, many=many, long=long)
    built = {name: Segments().build(catalogue, SegmentWish(name)) is not None for name in ("few", "many", "long")}
    assert built == {"few": True, "many": False, "long": False}


def test_segments_are_worked_out_once_and_few_are_kept() -> None:
    columns = {f"a{number}": ["x", "y", "x", "y"] for number in range(6)}
    catalogue = _of_columns(**columns)
    segments = Segments()
    first = segments.build(catalogue, SegmentWish("a0"))
    assert segments.build(catalogue, SegmentWish("a0")) is first
    for name in columns:
        segments.build(catalogue, SegmentWish(name))
    assert [segments.is_built(catalogue, SegmentWish(name)) for name in columns] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


def test_segments_do_not_keep_a_catalogue() -> None:
    catalogue = _of_columns(shelf=["x", "y"])
    segments = Segments()
    segments.build(catalogue, SegmentWish())
    gone = weakref.ref(catalogue)
    del catalogue
    gc.collect()
    assert gone() is None


class Vectors:
    def __init__(self, vectors: list[list[float]]) -> None:
        self._vectors = np.array(vectors, dtype=np.float32)

    def item_queries(self, item_indices: np.ndarray) -> np.ndarray:
        return normalize(self._vectors[item_indices - 1])


def test_what_the_latest_items_have_in_common_is_the_mean_of_their_directions() -> None:
    bundle: Any = Vectors([[3, 0], [0, 0.1], [-5, 0], [0, 0], [1, 0], [1, 0], [1, 0]])
    assert latest_vector(bundle, np.empty(0, dtype=np.int64)) is None
    np.testing.assert_allclose(latest_vector(bundle, np.array([1])), [1, 0])
    np.testing.assert_allclose(latest_vector(bundle, np.array([1, 2])), [0.5**0.5] * 2, rtol=1e-6)
    # of old ones nothing is left, an item without direction says nothing, and opposites leave the latest
    np.testing.assert_allclose(latest_vector(bundle, np.array([2, 1, 5, 6, 7, 1])), [1, 0])
    np.testing.assert_allclose(latest_vector(bundle, np.array([2, 4])), [0, 1])
    assert latest_vector(bundle, np.array([4])) is None
    np.testing.assert_allclose(latest_vector(bundle, np.array([1, 3])), [-1, 0])
