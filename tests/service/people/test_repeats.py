"""What is asked again about the same history is answered again without a search, and nothing else is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from model_store.people.owner import Owner
from service.decisions.replaying import replay_record
from service.engine.batcher import EncodeBatcher
from service.engine.served_bundle import ServedBundle
from service.errors import InvalidRequest
from service.people.hidden_set import HiddenItems
from service.people.remembered import LastKnown
from service.recommend.ask import Boost, Pin, Query, Recommendation
from service.recommend.candidates.filters import Match, Not
from service.recommend.recommender import Recommender
from service.settings import Settings
from tests.past import done, past
from tests.service.engine.test_batcher import Counts, running
from tests.service.recommend.pipelines import (
    OneBundle,
    Shelf,
    cripple,
    make_recommender,
    open_served,
    poison,
    with_wrong_index,
)
from tests.shop import event, item_ids, running_app

ASKED = Query("u1", 4, 5, filter=Match("is_new", any_of=(False,)))


class Hidden:
    """What operators have hidden, as a test says."""

    def __init__(self) -> None:
        self.items = HiddenItems()

    async def current(self, *, within: float) -> HiddenItems:  # noqa: ARG002 - the protocol's
        return self.items


class Place:
    """A recommender, and all that its answers depend on."""

    def __init__(self, served: ServedBundle, batcher: EncodeBatcher, **more: Any) -> None:
        self.shelf, self.hidden, self.bundles = Shelf(), Hidden(), OneBundle(served)
        self.last_known = LastKnown(max_bytes=1 << 20, max_age_seconds=100)
        self.shelf.add("u1", "i1", "i2")
        parts: dict[str, Any] = {"histories": self.shelf, "hidden": self.hidden, "last_known": self.last_known, **more}
        self.recommender: Recommender = make_recommender(self.bundles, batcher, **parts)  # type: ignore[arg-type]

    async def ask(self, query: Query = ASKED) -> Recommendation:
        return await self.recommender.recommend(query)


@pytest.fixture
def served(both_root: Path) -> ServedBundle:
    return open_served(both_root, "hatllm")


@pytest.fixture
async def batcher() -> AsyncIterator[EncodeBatcher]:
    async with running(Counts()) as batcher:
        yield batcher


@pytest.fixture
def place(served: ServedBundle, batcher: EncodeBatcher) -> Place:
    return Place(served, batcher)


def _is_repeated(answer: Recommendation) -> bool:
    return [(note.step, note.reason) for note in answer.trace.steps] == [("model", "repeated")]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"explain": True},
        {"mode": "generate"},
        {"diversity": 0.5},
        {"max_per": {"category": 1}},
        {"k": 500},
        {"pins": (Pin("i7", 2),), "boosts": (Boost(("i9",), multiply=2.0),)},
    ],
)
async def test_the_same_question_has_the_same_answer_and_asks_neither_model_nor_index(
    place: Place, served: ServedBundle, more: dict[str, Any]
) -> None:
    query = replace(ASKED, **more)
    place.shelf.add("u1", "not in the catalogue")
    first = await place.ask(query)
    assert (first.source, _is_repeated(first)) == ("model", False)
    cripple(served.encoder)
    place.bundles.served = with_wrong_index(served)
    # by whom, when and for how long one waits makes no difference
    again = await place.ask(replace(query, timeout_seconds=1.0, asked_by="another key", asked_at=5.0))
    assert _is_repeated(again)
    for name in ("items", "source", "history_length", "mode"):
        assert getattr(again, name) == getattr(first, name), name
    for name in ("warnings", "plans", "filtered", "counts"):
        assert getattr(again.trace, name) == getattr(first.trace, name), name
    assert again.recommendation_id != first.recommendation_id
    assert (again.trace.timing.encode, again.trace.timing.search) == (0, 0)
    assert any("unknown_history_items" in warning for warning in again.trace.warnings)


@pytest.mark.parametrize(
    "changed",
    [
        {"k": 5},
        {"user_id": "u2"},
        {"filter": None},
        {"filter": Not(Match("is_new", any_of=(False,)))},
        {"exclude_item_ids": ("i9",)},
        {"exclude_seen": False},
        {"seen_types": ("purchase",)},
        {"max_per": {"category": 1}},
        {"pins": (Pin("i7", 1),)},
        {"boosts": (Boost(("i9",), add=0.1),)},
        {"diversity": 0.1},
        {"explain": True},
        {"return_fields": ("price",)},
        {"mode": "generate"},
    ],
)
async def test_another_question_is_answered_for_itself(place: Place, changed: dict[str, Any]) -> None:
    place.shelf.add("u2", "i1", "i2")
    await place.ask()
    query = replace(ASKED, **changed)
    assert not _is_repeated(await place.ask(query))
    assert _is_repeated(await place.ask(query))
    assert _is_repeated(await place.ask())


async def test_what_python_takes_for_equal_is_another_question(place: Place) -> None:
    await place.ask()
    with pytest.raises(InvalidRequest):
        await place.ask(replace(ASKED, filter=Match("is_new", any_of=(0,))))


def _another_bundle(place: Place) -> None:
    served = place.bundles.served
    bundle = replace(served.bundle, manifest=served.bundle.manifest.model_copy(update={"bundle_id": "b" * 12}))
    place.bundles.served = replace(served, bundle=bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda place: place.shelf.add("u1", "i3"),
        lambda place: place.shelf.users["u1"].reverse(),
        lambda place: place.shelf.users["u1"].pop(),
        lambda place: setattr(place.hidden, "items", HiddenItems(frozenset({"i5"}))),
        lambda place: place.last_known.forgetting.forget(Owner("u1").hash),
        lambda place: asyncio.get_running_loop().create_task(place.last_known.forgetting.forget_all()),
        _another_bundle,
    ],
    ids=["event", "order", "fewer", "hidden", "forgotten", "all forgotten", "bundle"],
)
async def test_whatever_an_answer_depends_on_makes_another_one(place: Place, change: Callable[[Place], None]) -> None:
    await place.ask()
    assert _is_repeated(await place.ask())
    change(place)
    await asyncio.sleep(0)  # what is forgotten as a task begins
    answer = await place.ask()
    assert not _is_repeated(answer)
    assert not {"i5"} & place.hidden.items.item_ids & {item.item_id for item in answer.items}


@pytest.mark.parametrize(
    "query",
    [
        replace(ASKED, seen_max_age_seconds=9),  # it depends on the time of day
        replace(ASKED, paginate=True),
        replace(ASKED, user_id=None, history=past([done("i1")])),
        replace(ASKED, session_id="s1"),
        replace(ASKED, user_id="nobody"),
    ],
    ids=["age", "pages", "own history", "two owners", "popular"],
)
async def test_what_is_not_certain_to_be_the_same_is_made_again(place: Place, query: Query) -> None:
    first = await place.ask(query)
    again = await place.ask(query)
    assert not _is_repeated(again)
    assert [item.item_id for item in first.items] == [item.item_id for item in again.items]
    # made anew, and a sum of floats in another order may differ in its last bit
    assert [item.score for item in first.items] == pytest.approx([item.score for item in again.items], abs=1e-6)
    assert place.last_known.kept_bytes()["answers"] == 0


async def test_what_a_failure_has_had_a_part_in_is_made_again(
    served: ServedBundle, batcher: EncodeBatcher, place: Place
) -> None:
    place.bundles.served = with_wrong_index(served)
    assert (await place.ask()).source.startswith("fallback:")
    place.bundles.served = served
    assert (await place.ask()).source == "model"
    assert _is_repeated(await place.ask())
    # the reasons are missing, the rest is the model's
    explained, mute = replace(ASKED, explain=True), Place(served, batcher)
    await mute.ask(replace(ASKED, k=3))
    poison(served.encoder)
    for _ in range(2):
        answer = await mute.ask(explained)
        assert (answer.source, _is_repeated(answer)) == ("model", False)
        assert any("explain_failed" in warning for warning in answer.trace.warnings)


async def test_who_is_forgotten_while_they_are_answered_is_not_remembered(place: Place) -> None:
    place.shelf.on_read = lambda _: place.last_known.forgetting.forget(Owner("u1").hash) and None
    await place.ask()
    assert place.last_known.kept_bytes() == {"embeddings": 0, "histories": 0, "answers": 0}


async def test_few_questions_of_each_user_are_kept_and_not_more_than_there_is_room_for(place: Place) -> None:
    for k in range(1, 10):
        await place.ask(replace(ASKED, k=k))
    assert _is_repeated(await place.ask(replace(ASKED, k=9)))
    assert _is_repeated(await place.ask(replace(ASKED, k=6)))
    assert not _is_repeated(await place.ask(replace(ASKED, k=5)))
    for number in range(500):
        place.shelf.add(f"user-{number}", "i1", f"i{2 + number % 20}")
        await place.ask(replace(ASKED, user_id=f"user-{number}"))
        assert place.last_known.kept_bytes()["answers"] <= (1 << 20) // 3
    assert not _is_repeated(await place.ask(replace(ASKED, k=9)))


async def test_over_http_a_repeated_answer_has_its_own_record_which_can_be_replayed(
    settings: Settings, shop_root: Path
) -> None:
    async with running_app(settings) as (_, client):
        await client.post("/events", json={"events": [event("again", "i1", 10), event("again", "i2", 20)]})
        body = {"user_id": "again", "k": 5}
        first, again = [await client.post("/recommend", json=body) for _ in range(2)]
        assert item_ids(again) == item_ids(first)
        assert first.json()["recommendation_id"] != again.json()["recommendation_id"]
        record = await _record(client, again.json()["recommendation_id"])
        assert record["steps"] == [{"step": "model", "reason": "repeated"}]
        assert record["counts"] == (await _record(client, first.json()["recommendation_id"]))["counts"]
        served = open_served(shop_root, "hllm")
        assert record["versions"]["bundle"] == served.bundle_id
        assert (await replay_record(record, lambda _: served)).first_difference is None
        # an event, a hidden item and an erasure are in the next answer, though the question is the same
        await client.post("/events", json={"events": [event("again", item_ids(first)[0], 30)]})
        assert item_ids(first)[0] not in item_ids(await client.post("/recommend", json=body))
        now = item_ids(await client.post("/recommend", json=body))
        await client.post(f"/admin/items/{now[0]}/hide")
        try:
            assert now[0] not in item_ids(await client.post("/recommend", json=body))
        finally:
            await client.post(f"/admin/items/{now[0]}/show")
        await client.delete("/users/again")
        assert (await client.post("/recommend", json=body)).json()["source"] == "fallback:popular"


async def _record(client: httpx2.AsyncClient, name: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while (answer := await client.get(f"/recommendations/{name}")).status_code == 404:
            await asyncio.sleep(0.02)
    return dict(answer.json())
