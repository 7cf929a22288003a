"""Every list, on every step, against the slow way round: filters, exclusions, caps, pins, boosts, diversity, length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from model_store.index import build_index
from model_store.index.vectors import normalize
from service.engine.served_bundle import MaskCache
from service.people.hidden_set import HiddenItems
from service.recommend.ask import Ask, Boost, Pin, Query
from service.recommend.candidates.filter_wire import FilterNode
from service.recommend.deadline import Deadline
from service.recommend.known import Known, Past
from service.recommend.ranking.answering import Answer, ModelView, make_answer
from service.recommend.ranking.candidates import Candidates
from service.recommend.trace import Trace
from tests.oracles import random_shops
from tests.past import Row, past

DIM = 4
NOW = 1_000_000.0
CAPPED = ("colour", "kind", "size", "price", "is_new", "tags", "sizes")
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, values in random_shops.ELEMENTS.items()}),
    min_size=1,
    max_size=30,
)


class Gone:
    """An index whose file is gone."""

    factory = "Flat"

    def search(self, *_: Any, **__: Any) -> Any:
        raise OSError("the file is gone")


@dataclass
class OneSegment:
    """Segments of a catalogue of which everybody has the same one."""

    items: np.ndarray
    attribute: str = "colour"

    def is_built(self, *_: Any) -> bool:
        return True

    def build(self, *_: Any) -> "OneSegment":
        return self

    def order(self, *_: Any) -> np.ndarray:
        return self.items


@dataclass
class Case:
    """One request, and what the slow way needs to know of it."""

    rows: list[dict[str, Any]]
    sent: dict[str, Any]
    vectors: np.ndarray
    user: np.ndarray
    query: Query
    hidden: list[str]
    interactions: list[Row]
    boost_filters: list[dict[str, Any]]
    segment: list[int] | None = None
    generated: list[tuple[int, float]] | None = None
    step: str = "model"
    is_broken: bool = False
    served: Any = field(init=False)

    def __post_init__(self) -> None:
        catalogue = random_shops.catalogue_of(self.rows)
        index: Any = Gone() if self.is_broken else build_index(self.vectors, factory="Flat").index

        def item_directions(item_indices: np.ndarray) -> np.ndarray:
            return normalize(self.vectors[np.asarray(item_indices, dtype=np.int64) - 1])

        bundle = SimpleNamespace(index=index, item_directions=item_directions, catalogue=catalogue)
        self.served = SimpleNamespace(catalogue=catalogue, bundle=bundle, masks=MaskCache(), kind="hllm")

    def answered(self, **changed: Any) -> tuple[Answer, Trace]:
        ask = Ask(replace(self.query, **changed), (), self.served, "retrieve", Deadline.after(5.0))
        interactions = past(self.interactions)
        history = interactions.known_to(self.served.catalogue)
        known = Known(Past(interactions), history, hidden=HiddenItems(frozenset(self.hidden)))
        generated = None
        if self.generated is not None:
            items, scores = zip(*self.generated, strict=True) if self.generated else ((), ())
            generated = Candidates(np.array(items, dtype=np.int64), np.array(scores, dtype=np.float32))
        view = ModelView(generated, self.user if self.step else None, step=self.step or "model")
        segments: Any = OneSegment(np.array(self.segment, dtype=np.int64)) if self.segment is not None else None
        return make_answer(ask, known, view, segments)

    # the slow way

    def admissible(self) -> set[int]:
        stored = self.served.catalogue.table.to_pylist()
        out = {*self.query.exclude_item_ids, *self.hidden, *self.seen()}
        return {at for at, row in enumerate(stored, 1) if random_shops.passes(row, self.sent) and f"i{at}" not in out}

    def seen(self) -> set[str]:
        query = self.query
        if not query.exclude_seen:
            return set()
        oldest = -math.inf if query.seen_max_age_seconds is None else NOW - query.seen_max_age_seconds
        return {
            item_id
            for item_id, timestamp, kind in self.interactions
            if (not query.seen_types or kind in (None, *query.seen_types))
            and (timestamp is None or timestamp >= oldest)
        }

    def values(self, item: int, name: str) -> set[Any]:
        value = self.served.catalogue.table.column(name)[item - 1].as_py()
        elements = value if isinstance(value, list) else [value]
        return {one for one in elements if one is not None and one == one}

    def cosine(self, one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    def boosted(self, item: int, relevance: float) -> float:
        row = self.served.catalogue.table.slice(item - 1, 1).to_pylist()[0]
        lifted, is_met, added = 1 + relevance, False, 0.0
        for boost, sent in zip(self.query.boosts, self.boost_filters, strict=True):
            if random_shops.passes(row, sent) if boost.filter is not None else f"i{item}" in boost.item_ids:
                lifted, added, is_met = lifted * boost.multiply, added + boost.add, True
        return lifted + added - 1 if is_met else relevance

    def sources(self) -> list[dict[int, float]]:
        """What comes one after the other: items and their boosted relevance."""
        items = range(1, len(self.rows) + 1)
        sources: list[dict[int, float]] = []
        if self.generated is not None:
            best = self.generated[0][1] if self.generated else 0.0
            sources.append({item: math.exp(score - best) for item, score in self.generated})
        if self.step and not self.is_broken:
            sources.append({item: self.cosine(self.vectors[item - 1], self.user) for item in items})
        else:
            top = math.log1p(max(len(self.rows) - 1, 0)) or 1.0
            popularity = {item: math.log1p(item - 1) / top for item in items}
            if self.segment is not None:
                sources.append({item: popularity[item] for item in self.segment})
            sources.append(popularity)
        return [{item: self.boosted(item, one) for item, one in source.items()} for source in sources]


class Caps:
    """Counts, the slow way."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._counts: dict[tuple[str, Any], int] = {}

    def admits(self, item: int) -> bool:
        limits = self._case.query.max_per.items()
        return all(
            self._counts.get((name, value), 0) < limit
            for name, limit in limits
            for value in self._case.values(item, name)
        )

    def take(self, item: int) -> None:
        for name in self._case.query.max_per:
            for value in self._case.values(item, name):
                self._counts[name, value] = self._counts.get((name, value), 0) + 1


def check_list(case: Case, items: Sequence[int], k: int) -> None:
    """Goes through a list from its top: each item must be the best one that could stand there."""
    admissible, caps = case.admissible(), Caps(case)
    pins: dict[int, int] = {}
    for pin in sorted(case.query.pins, key=lambda pin: pin.position):
        item = case.served.catalogue.index_of(pin.item_id)
        if item in admissible and caps.admits(item):
            caps.take(item)
            pins[pin.position] = item
    sources, free = case.sources(), admissible - set(pins.values())
    waiting = dict(pins)
    diversity, chosen = case.query.diversity, []
    for item in items:
        if len(chosen) + 1 in waiting:
            assert item == waiting.pop(len(chosen) + 1)
            chosen.append(item)
            continue
        fitting = [
            {one: gain for one, gain in source.items() if one in free and caps.admits(one)} for source in sources
        ]
        source = next((one for one in fitting if one), None)
        if source is None:  # pinned items whose place was not reached
            assert item == waiting.pop(min(waiting))
            chosen.append(item)
            continue
        if diversity > 0 and chosen:
            source = {
                one: (1 - diversity) * gain
                - diversity * max(case.cosine(case.vectors[one - 1], case.vectors[other - 1]) for other in chosen)
                for one, gain in source.items()
            }
        assert item in source, (item, source)
        assert source[item] >= max(source.values()) - 1e-4
        free.discard(item)
        caps.take(item)
        chosen.append(item)
    is_full = len(items) == k
    assert is_full or (not waiting and not any(one in free and caps.admits(one) for one in free))


_ids = st.lists(st.integers(1, 35).map(lambda number: f"i{number}"), max_size=8)
_limits = st.dictionaries(st.sampled_from(CAPPED), st.integers(1, 3), max_size=2)


@st.composite
def cases(draw: st.DrawFn, *, plain: bool = False) -> Case:
    rows = draw(ROWS)
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    vectors = random.normal(size=(len(rows), DIM)).astype(np.float32)
    if draw(st.booleans()):  # some items are nearly the same
        vectors[: len(rows) // 2] = vectors[0] + 0.01 * vectors[: len(rows) // 2]
    sent = draw(random_shops.leaves | random_shops.trees) if draw(st.booleans()) else {}
    interactions = draw(
        st.lists(
            st.tuples(
                st.integers(1, 35).map(lambda number: f"i{number}"),
                st.none() | st.integers(int(NOW) - 100, int(NOW) + 5),
                st.none() | st.sampled_from(["click", "buy"]),
            ),
            max_size=8,
        )
    )
    boost_filters = [] if plain else draw(st.lists(st.just({}) | random_shops.leaves, max_size=3))
    boosts = [
        Boost(
            item_ids=() if sent_boost else tuple(draw(_ids)),
            filter=FilterNode.model_validate(sent_boost).tree(),
            multiply=draw(st.sampled_from([0.5, 1.5, 3.0])),
            add=draw(st.sampled_from([-0.5, 0.0, 0.25])),
        )
        for sent_boost in boost_filters
    ]
    positions = [] if plain else draw(st.lists(st.integers(1, 12), max_size=3, unique=True))
    pinned = draw(st.lists(st.integers(1, 35), min_size=len(positions), max_size=len(positions), unique=True))
    query = Query(
        user_id="u",
        k=draw(st.integers(1, 40)),
        timeout_seconds=5.0,
        filter=FilterNode.model_validate(sent).tree(),
        exclude_item_ids=draw(_ids),
        exclude_seen=draw(st.booleans()),
        seen_types=draw(st.sampled_from([[], ["buy"], ["click", "buy"]])),
        seen_max_age_seconds=draw(st.none() | st.integers(1, 120)),
        asked_at=NOW,
        max_per={} if plain else draw(_limits),
        pins=[Pin(f"i{item}", position) for item, position in zip(pinned, positions, strict=True)],
        boosts=tuple(boosts),
        diversity=0.0 if plain else draw(st.sampled_from([0.0, 0.0, 0.3, 1.0])),
    )
    generated = None
    if draw(st.integers(0, 3)) == 0:
        chosen = draw(st.lists(st.integers(1, len(rows)), max_size=6, unique=True))
        generated = [(item, -0.1 - 0.3 * at) for at, item in enumerate(chosen)]
    return Case(
        rows=rows,
        sent=sent,
        vectors=vectors,
        user=random.normal(size=DIM).astype(np.float32),
        query=query,
        hidden=draw(_ids),
        interactions=interactions,
        boost_filters=boost_filters,
        segment=draw(st.none() | st.sets(st.integers(1, len(rows)), max_size=6).map(lambda some: sorted(some)[::-1])),
        generated=generated,
        step=draw(st.sampled_from(["model", "last_embedding", "similar_items", ""])),
        is_broken=draw(st.integers(0, 4)) == 0,
    )


@settings(max_examples=250, deadline=None)
@given(case=cases())
def test_each_place_of_a_list_has_the_best_item_that_may_stand_there(case: Case) -> None:
    answered, trace = case.answered()
    items = [case.served.catalogue.index_of(one.item_id) for one in answered.items]
    admissible = case.admissible()
    assert len(set(items)) == len(items)
    assert set(items) <= admissible
    expected = min(case.query.k, len(admissible))
    if not case.query.max_per:
        assert len(items) == expected
    is_short = len(items) < expected
    assert any(one.startswith("max_per_short: ") for one in trace.warnings) is is_short
    # every cap holds, pinned items included
    for name, limit in case.query.max_per.items():
        for value in {value for item in items for value in case.values(item, name)}:
            assert sum(value in case.values(item, name) for item in items) <= limit
    # a filter that leaves little is answered by a scan, so a broken index may not be noticed
    is_broken = case.is_broken and case.step and any(one.startswith("index_failed") for one in trace.warnings)
    if not case.is_broken or is_broken or not case.step:
        check_list(case, items, case.query.k)
    assert answered.ranked.item_indices.tolist() == items
    assert trace.counts["admissible"] == len(admissible)
    event(f"source {answered.source}")
    event(f"short {is_short}")


@settings(max_examples=80, deadline=None)
@given(case=cases(), k=st.integers(1, 40))
def test_a_list_is_the_beginning_of_every_longer_one(case: Case, k: int) -> None:
    whole, _ = case.answered(paginate=True)
    part, _ = case.answered(k=k)
    assert part.ranked.item_indices.tolist() == whole.ranked.item_indices[:k].tolist()
    # scores come from searches of different depth, which may differ in the last bit
    np.testing.assert_allclose(part.ranked.scores, whole.ranked.scores[:k], rtol=1e-5, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(case=cases(plain=True))
def test_diversity_of_nought_and_boosts_that_nobody_meets_change_nothing_bit_for_bit(case: Case) -> None:
    plain, _ = case.answered()
    again, _ = case.answered(
        diversity=0.0, boosts=(Boost(item_ids=("nothing",), multiply=9.0),), pins=(Pin("none", 1),)
    )
    assert plain.ranked.item_indices.tolist() == again.ranked.item_indices.tolist()
    assert plain.ranked.scores.tolist() == again.ranked.scores.tolist()


def _case(vectors: np.ndarray, **more: Any) -> Case:
    rows = [{**dict.fromkeys(random_shops.TYPES), "colour": "red"} for _ in vectors]
    user = np.array([1.0, 0.0, 0.0, 0.0], dtype=np.float32)
    query = Query(user_id=None, k=len(rows), timeout_seconds=5.0, **more)
    return Case(rows, {}, vectors, user, query, [], [], [])


def test_diversity_of_one_is_maximal() -> None:
    # the user's own direction three times, then one a right angle away, then one in the opposite direction
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 0, 1, 0]]
    vectors[1, 2], vectors[2, 2], vectors[4, 0] = 0.01, 0.02, -1.0
    case = _case(vectors, diversity=1.0)
    items = case.answered()[0].ranked.item_indices.tolist()
    assert items[:3] == [1, 5, 4]
    assert case.answered(diversity=0.0)[0].ranked.item_indices.tolist() == [1, 2, 3, 4, 5]


def test_a_cap_is_met_by_going_further_down_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(4_000, DIM)).astype(np.float32)
    rows = [dict.fromkeys(random_shops.TYPES) for _ in vectors]
    user = vectors[0]
    order = np.argsort(-(vectors @ user) / np.linalg.norm(vectors, axis=1))
    for place, row in enumerate(order.tolist()):  # all near items are of one colour, the far ones of a few sizes
        rows[row]["colour"] = "red" if place < 3_000 else f"c{place % 7}"
    query = Query(user_id=None, k=10, timeout_seconds=5.0, max_per={"colour": 1})
    case = Case(rows, {}, vectors, user, query, [], [], [])
    answered, trace = case.answered()
    expected = [int(order[0]) + 1, *(int(order[3_000 + at]) + 1 for at in range(7))]
    assert answered.ranked.item_indices.tolist() == expected
    assert trace.warnings == ("max_per_short: 8 items instead of 10, as max_per admits no more",)
    assert trace.counts["capped"] > 0


def test_pages_are_cut_from_500_items_at_most() -> None:
    vectors = np.random.default_rng(0).normal(size=(700, DIM)).astype(np.float32)
    case = _case(vectors)
    answered, _ = case.answered(k=3, paginate=True)
    assert (len(answered.items), len(answered.ranked)) == (3, 500)
