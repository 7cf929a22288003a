"""What is counted of kept states, of items that an answer could not have, and of events until they are counted in."""

import re
from functools import partial

import httpx2

from model_store.encoding import CacheCounts
from model_store.people.owner import Owner
from service.metrics.engine import ServiceFigures
from service.metrics.metrics import Metrics
from service.people.visibility import EventVisibility
from service.settings import Settings
from tests.past import done, past
from tests.shop import event, item_ids, running_app


async def _value(client: httpx2.AsyncClient, series: str) -> float:
    text = (await client.get("/metrics")).text
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_a_kept_state_is_a_hit_from_the_second_request_on(both_settings: Settings) -> None:
    async with running_app(both_settings) as (_, client):
        for item_id in ("i1", "i2", "i3"):
            await client.post("/events", json={"events": [event("counted", item_id, 1)]})
            item_ids(await client.post("/recommend", json={"user_id": "counted", "model": "hatllm", "k": 1}))
        item_ids(await client.post("/recommend", json={"history": ["i1"], "model": "hatllm", "k": 1}))
        counts = [
            await _value(client, f'hatstand_model_state_{what}_total{{kind="hatllm"}}')
            for what in ("hits", "misses", "evictions")
        ]
    # nobody owns a history that travels in the request
    assert counts == [2, 1, 0]


async def test_states_without_room_are_evictions(both_settings: Settings) -> None:
    async with running_app(both_settings.model_copy(update={"state_cache_mb": 0})) as (_, client):
        for item_id in ("i1", "i2"):
            await client.post("/events", json={"events": [event("large", item_id, 1)]})
            item_ids(await client.post("/recommend", json={"user_id": "large", "model": "hatllm", "k": 1}))
        assert await _value(client, 'hatstand_model_state_hits_total{kind="hatllm"}') == 0
        assert await _value(client, 'hatstand_model_state_evictions_total{kind="hatllm"}') == 2


def test_another_bundle_counts_from_0_and_the_total_goes_on() -> None:
    metrics = Metrics()
    for counts in (CacheCounts(5, 3, 1), CacheCounts(7, 3, 2), CacheCounts(1, 1, 0), CacheCounts(2, 1, 4)):
        metrics.engine.watch_service(partial(ServiceFigures, state_counts={"hatllm": counts}))
        text = metrics.render().decode()
    for what, total in (("hits", 9), ("misses", 4), ("evictions", 6)):
        assert f'hatstand_model_state_{what}_total{{kind="hatllm"}} {total}.0\n' in text


async def test_items_that_an_answer_could_not_have_are_counted_by_reason(client: httpx2.AsyncClient) -> None:
    await client.post("/admin/items/i60/hide")
    try:
        body = {
            "history": ["i1", "i2"],
            "filter": {"category": {"any_of": ["Books"]}},
            "exclude_item_ids": ["i4", "i7", "i10", "none"],
            "k": 10,
        }
        assert len(item_ids(await client.post("/recommend", json=body))) == 10
        expected = {"filter": 40, "excluded": 3, "seen": 2, "hidden": 1, "cap": 0, "last_check": 0}
        for reason, count in expected.items():
            assert await _value(client, f'hatstand_candidates_filtered_total{{reason="{reason}"}}') == count, reason
        item_ids(await client.post("/recommend", json={"history": ["i1"], "max_per": {"category": 1}, "k": 10}))
        assert await _value(client, 'hatstand_candidates_filtered_total{reason="cap"}') > 0
    finally:
        await client.post("/admin/items/i60/show")


async def test_an_event_is_visible_once_and_only_to_its_owner(settings: Settings) -> None:
    series = "hatstand_event_visibility_seconds_count"
    async with running_app(settings) as (_, client):
        await client.post("/events", json={"events": [event("seer", "i1", 5), event("seer", "i2", 6)]})
        item_ids(await client.post("/recommend", json={"history": ["i1"]}))
        item_ids(await client.post("/recommend", json={"user_id": "somebody-else"}))
        assert await _value(client, series) == 0
        for _ in range(2):
            item_ids(await client.post("/recommend", json={"user_id": "seer"}))
            assert await _value(client, series) == 1
        assert 0 < await _value(client, "hatstand_event_visibility_seconds_sum") < 5
        await client.post("/events", json={"events": [event("seer", "i3", 7)]})
        await client.delete("/users/seer")
        item_ids(await client.post("/recommend", json={"user_id": "seer"}))
        assert await _value(client, series) == 1


def test_the_first_event_that_waits_is_measured() -> None:
    now, seconds = [100.0], list[float]()
    visibility = EventVisibility(seconds.append, clock=lambda: now[0])
    owner, session = Owner("u"), Owner("u", is_session=True)
    visibility.acknowledged(owner, [done("i1", 10)])
    now[0] = 101.0
    visibility.acknowledged(owner, [done("i2", 11)])
    visibility.acknowledged(session, [done("i1", 10)])
    now[0] = 103.0
    # an answer that was made of what was read before
    visibility.answered([owner], past([done("i0", 9)]))
    assert (seconds, len(visibility)) == ([], 2)
    visibility.answered([owner, session], past([done("i0", 9), done("i1", 10), done("i2", 11)]))
    assert (seconds, len(visibility)) == ([3.0, 2.0], 0)


def test_what_waits_is_bounded_and_what_never_comes_is_given_up() -> None:
    visibility = EventVisibility()
    for number in range(10_050):
        visibility.acknowledged(Owner(f"u{number}"), [done("i1", 10)])
    assert len(visibility) == 10_000
    # it was older than all that is kept of the user
    visibility.answered([Owner("u10049")], past([done("i5", 20)]))
    assert len(visibility) == 9_999
    visibility.forget(Owner("u10048").hash)
    assert len(visibility) == 9_998
    visibility.forget_all()
    assert len(visibility) == 0
