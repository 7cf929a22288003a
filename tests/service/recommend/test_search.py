"""Search in titles: whole words and parts of words first, then what was nearly typed."""

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.catalogue.catalogue import Catalogue
from service.engine.served_bundle import MaskCache
from service.people.hidden_set import NOTHING_HIDDEN, HiddenItems
from service.recommend.search import find_by_title

TITLES = [
    "Wireless Headphones, black",
    "Headphone cable",
    "Riesling trocken 2019",
    "Café crème",
    "Gewürztraminer",
    "C++ (third edition) [used]",
    "Wireles router",
    "Tea",
]


def _shop(titles: list[str | None]) -> Any:
    popularity = list(range(len(titles), 0, -1))
    table = pa.table(
        {
            "item_id": [f"i{at}" for at in range(len(titles))],
            "title": pa.array(titles, pa.string()),
            "popularity": popularity,
        }
    )
    return SimpleNamespace(catalogue=Catalogue.from_table(table), masks=MaskCache(), bundle_id="b")


def _found(query: str, *, limit: int = 10, hidden: HiddenItems = NOTHING_HIDDEN) -> list[str]:
    indices = find_by_title(_shop(list(TITLES)), query, limit, hidden)
    return [TITLES[index - 1] for index in indices.tolist()]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("headphones", "Wireless Headphones, black"),
        ("HEADPHONE CABLE", "Headphone cable"),
        ("headfones", "Wireless Headphones, black"),
        ("haedphone cabel", "Headphone cable"),
        ("reisling", "Riesling trocken 2019"),
        ("riesling 2019", "Riesling trocken 2019"),
        ("cafe", "Café crème"),
        ("gewurztraminer", "Gewürztraminer"),
        ("gewurtztraminer", "Gewürztraminer"),
        ("c++", "C++ (third edition) [used]"),
        ("edtion", "C++ (third edition) [used]"),
        ("tea", "Tea"),
    ],
)
def test_a_title_is_found_by_what_was_meant(query: str, first: str) -> None:
    assert _found(query)[0] == first


def test_what_was_typed_comes_before_what_was_nearly_typed() -> None:
    # the second is the more popular one
    assert _found("wireles") == ["Wireless Headphones, black", "Wireles router"]
    assert _found("wireles router") == ["Wireles router"]
    assert _found("wireless router") == ["Wireles router"]
    assert _found("wireless", limit=1) == ["Wireless Headphones, black"]
    assert _found("wireless") == ["Wireless Headphones, black", "Wireles router"]


@pytest.mark.parametrize("query", ["tee", "hedfons", "headphones riesling", ".*", "\\", "zzzzzzzz", "a\x00b", "\ud7ff"])
def test_what_is_too_different_is_not_found(query: str) -> None:
    assert _found(query) == []


def test_hidden_items_are_not_found_either_way() -> None:
    hidden = HiddenItems(frozenset({"i0"}))
    assert _found("headphones", hidden=hidden) == ["Headphone cable"]
    assert _found("headfones", hidden=hidden) == []


def test_items_without_a_title_are_no_obstacle() -> None:
    shop = _shop([None, "", "Tea pot"])
    assert find_by_title(shop, "teapot", 5, NOTHING_HIDDEN).tolist() == []
    assert find_by_title(shop, "pott", 5, NOTHING_HIDDEN).tolist() == [3]
    assert sorted(find_by_title(shop, "", 5, NOTHING_HIDDEN).tolist()) == [1, 2, 3]


@given(
    st.lists(st.text("ab cdé", max_size=12), min_size=1, max_size=12),
    st.text("ab cdé.", max_size=8),
    st.integers(1, 15),
)
def test_exact_matches_are_all_there_and_first(titles: list[str], query: str, limit: int) -> None:
    found = find_by_title(_shop(list(titles)), query, limit, NOTHING_HIDDEN).tolist()
    exact = [at + 1 for at, title in enumerate(titles) if all(word.lower() in title.lower() for word in query.split())]
    assert found[: len(exact)] == exact[:limit]
    assert len(found) == len(set(found)) <= limit
