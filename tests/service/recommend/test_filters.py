"""Filters: the tree against the slow way round, its bounds, and what is said of a mistake."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from model_store.catalogue.catalogue import Catalogue
from service.engine.served_bundle import MaskCache
from service.errors import InvalidRequest
from service.recommend.candidates.filter_wire import Filter, FilterNode
from service.recommend.candidates.filters import evaluate, leaves, pack, unpack
from tests.oracles import random_shops

ADAPTER = TypeAdapter(Filter)
EMPTY_ROW = dict.fromkeys(random_shops.TYPES)


@settings(max_examples=200, deadline=None)
@given(rows=random_shops.rows, sent=random_shops.trees)
def test_a_filter_passes_what_the_slow_way_passes(rows: list[dict[str, Any]], sent: dict[str, Any]) -> None:
    catalogue = random_shops.catalogue_of(rows)
    stored = [catalogue.table.slice(at, 1).to_pylist()[0] for at in range(len(rows))]
    assert random_shops.mask_of(catalogue, sent) == [random_shops.passes(row, sent) for row in stored]


@settings(max_examples=50, deadline=None)
@given(rows=random_shops.rows, some=st.lists(random_shops.trees, min_size=2, max_size=6))
def test_what_is_kept_of_one_filter_changes_no_other(rows: list[dict[str, Any]], some: list[dict[str, Any]]) -> None:
    catalogue, cache = random_shops.catalogue_of(rows), MaskCache(max_bytes=8)
    for sent in [*some, *some]:
        assert random_shops.mask_of(catalogue, sent, cache) == random_shops.mask_of(catalogue, sent)
    assert cache.num_bytes <= 8


def test_a_leaf_is_evaluated_once_whatever_the_tree_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    matches = random_shops.evaluate.__globals__["matches"]
    monkeypatch.setattr(
        "service.recommend.candidates.filters.matches", lambda *a, **b: calls.append(a[1]) or matches(*a, **b)
    )
    catalogue, cache = random_shops.catalogue_of([{**EMPTY_ROW, "size": 1}]), MaskCache()
    for sent in (
        {"size": {"any_of": [1, 2]}},
        {"size": {"none_of": [2, 1]}},
        {"not": {"or": [{"size": {"any_of": [1, 2]}}, {"price": {"exists": False}}]}},
    ):
        random_shops.mask_of(catalogue, sent, cache)
    assert calls == ["size"]


@pytest.mark.parametrize("num_items", [1, 7, 8, 9, 100])
def test_a_bitmap_has_nothing_beyond_its_last_item(num_items: int) -> None:
    catalogue = random_shops.catalogue_of([EMPTY_ROW] * num_items)
    tree = FilterNode.model_validate({"not": {"size": {"exists": True}}}).tree()
    assert tree is not None
    bits = evaluate(tree, catalogue, MaskCache())
    assert unpack(bits, num_items).all()
    assert int(np.bitwise_count(bits).sum()) == num_items
    assert bits.tolist() == pack(np.ones(num_items, dtype=bool)).tolist()


def test_the_flat_form_of_before_is_an_and_of_its_entries() -> None:
    rows = [{**EMPTY_ROW, "colour": "red", "price": float(price)} for price in range(5)]
    sent = {"colour": {"any_of": ["red"]}, "price": {"gte": 1, "lte": 2.5}}
    assert random_shops.mask_of(random_shops.catalogue_of(rows), sent) == [False, True, True, False, False]


def test_of_a_list_one_element_must_meet_all_bounds() -> None:
    rows = [{**EMPTY_ROW, "sizes": sizes} for sizes in ([1.0, 9.0], [4.0, 9.0], [], None)]
    catalogue = random_shops.catalogue_of(rows)
    assert random_shops.mask_of(catalogue, {"sizes": {"gte": 3, "lte": 5}}) == [False, True, False, False]
    assert random_shops.mask_of(catalogue, {"sizes": {"exists": False}}) == [False, False, True, True]


@pytest.mark.parametrize(
    ("sent", "place", "says"),
    [
        ([], "", "valid dictionary"),
        ({"category": {}}, "category", "at least one of any_of"),
        ({"category": {"like": "A"}}, "category/like", "not permitted"),
        ({"category": []}, "category/any_of", "at least 1 item"),
        ({"category": [1, None]}, "category/any_of/1", "a string, a number, true or false"),
        ({"category": float("nan")}, "category/any_of/0", "a string, a number"),
        ({"price": {"gt": True}}, "price/gt", "a number or a string"),
        ({"or": [{"price": {"gte": [1]}}]}, "or/0/price/gte", "a number or a string"),
        ({"or": [{"price": {"gte": True}}]}, "or/0/price/gte", "a number or a string"),
        ({"and": [{}, {"price": {"any_of": [1, None]}}]}, "and/1/price/any_of/1", "a string, a number, true or false"),
        ({"price": {"any_of": [float("inf")]}}, "price/any_of/0", "a string, a number"),
        ({"price": {"lte": 2**64}}, "price/lte", "64 bits"),
        ({"category": {"gte": "a\ud800"}}, "category/gte", "not Unicode"),
        ({"price": {"any_of": [-(2**63) - 1]}}, "price/any_of/0", "64 bits"),
        ({"price": {"any_of": ["x" * 2_000]}}, "price/any_of/0", "longer than 1024"),
        ({"price": {"any_of": []}}, "price/any_of", "at least 1 item"),
        ({"and": []}, "and", "at least 1 item"),
        ({"or": {}}, "or", "valid list"),
        ({"not": []}, "not", "valid dictionary"),
        ({"and": None}, "and", "valid list"),
        ({"category": None}, "category", "valid dictionary"),
        ({"category": {"any_of": None}}, "category", "at least one of any_of"),
    ],
)
def test_a_mistake_is_named_with_its_place(sent: Any, place: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(sent)
    (error,) = caught.value.errors()
    assert "/".join(str(part) for part in error["loc"]) == place
    assert says in error["msg"]


def _nested(depth: int) -> dict[str, Any]:
    sent: dict[str, Any] = {"price": {"gte": 1}}
    for _ in range(depth - 1):
        sent = {"not": sent}
    return sent


def test_a_filter_is_bounded_in_depth_conditions_and_values() -> None:
    ADAPTER.validate_python(_nested(8))
    ADAPTER.validate_python({"or": [{"price": {"gte": number}} for number in range(63)]})
    ADAPTER.validate_python({"price": {"any_of": list(range(600)), "none_of": list(range(400))}})
    for sent, place, says in (
        (_nested(9), ("not",) * 8, "nested more than 8 deep"),
        (_nested(5_000), ("not",) * 8, "nested more than 8 deep"),
        ({"or": [{"price": {"gte": number}} for number in range(64)]}, ("or", 0), "more than 64 conditions"),
        ({f"a{number}": {"gte": 1} for number in range(65)}, (), "more than 64 conditions"),
        ({"a": list(range(1_001))}, ("a",), "more than 1000 values"),
        ({"price": {"any_of": list(range(600)), "none_of": list(range(401))}}, ("price",), "more than 1000 values"),
        ({"or": [{"price": {"any_of": [1] * 600}}, {"x": {"none_of": [1] * 401}}]}, ("or", 0, "price"), "1000 values"),
    ):
        with pytest.raises(ValidationError, match=says) as caught:
            ADAPTER.validate_python(sent)
        assert caught.value.errors()[0]["loc"] == place


@pytest.mark.parametrize(
    ("sent", "place"),
    [
        ({"size": {"any_of": [1, "red"]}}, "/filter/size/any_of/1"),
        ({"or": [{"size": {"gte": "1"}}]}, "/filter/or/0/size/gte"),
        ({"not": {"is_new": {"none_of": [1]}}}, "/filter/not/is_new/any_of/0"),
        ({"is_new": {"any_of": [0.0]}}, "/filter/is_new/any_of/0"),
        ({"is_new": {"lte": 1}}, "/filter/is_new/lte"),
        ({"tags": {"any_of": [1]}}, "/filter/tags/any_of/0"),
        ({"colour": {"lte": 3}}, "/filter/colour/lte"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(sent: dict[str, Any], place: str) -> None:
    catalogue = random_shops.catalogue_of([EMPTY_ROW])
    with pytest.raises(InvalidRequest, match=f"^{place}: ") as caught:
        random_shops.mask_of(catalogue, sent)
    assert caught.value.code == "invalid_filter"


def test_a_type_that_cannot_be_compared_can_still_be_asked_for() -> None:
    when = pa.array([0, None], pa.timestamp("s"))
    catalogue = Catalogue.from_table(pa.table({"item_id": ["a", "b"], "title": ["a", "b"], "when": when}))
    assert random_shops.mask_of(catalogue, {"when": {"exists": True}}) == [True, False]
    with pytest.raises(InvalidRequest, match="cannot be compared"):
        random_shops.mask_of(catalogue, {"when": {"gte": 0}})


def test_every_condition_has_its_place_as_a_json_pointer() -> None:
    sent = {
        "a/b~c": {"exists": True},
        "or": [{}, {"x": {"gte": 1}, "and": [{"y": {"lte": 2}}]}],
        "not": {"z": {"gte": 1}},
    }
    tree = FilterNode.model_validate({**sent, "or": sent["or"][1:]}).tree()
    assert tree is not None
    assert [leaf.path for leaf in leaves(tree)] == [
        "/filter/a~1b~0c",
        "/filter/or/0/x",
        "/filter/or/0/and/0/y",
        "/filter/not/z",
    ]
