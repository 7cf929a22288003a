"""What the console's numbers count: events, what lists lead to, and visitors to look at."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from model_store.people.event_log import CONSOLE_ORIGIN, LoggedEvent
from model_store.people.owner import Owner
from service.console.activity import NUM_BINS, summarize
from service.console.outcomes import count_outcomes
from service.settings import Settings
from tests.processes.redis_processes import RedisProcess
from tests.shop import event, running_app

NOW = 1_700_000_000


@pytest.fixture
async def own_client(both_settings: Settings, own_redis: RedisProcess) -> AsyncIterator[httpx2.AsyncClient]:
    async with running_app(both_settings.model_copy(update={"redis_url": own_redis.url})) as (_, client):
        yield client


def logged(
    user: str, item_id: str, *, type: str = "click", list_id: str | None = None, origin: str = ""
) -> LoggedEvent:
    properties = {"origin": origin} if origin else {}
    return LoggedEvent(Owner(user), item_id, NOW, type, f"{user}-{item_id}-{type}", list_id or None, properties)


def document(list_id: str, *, kind: str = "hllm", source: str = "model", arm: str | None = None) -> dict[str, object]:
    experiment = None if arm is None else {"name": "e", "arm": arm}
    return {"recommendation_id": list_id, "source": source, "versions": {"kind": kind}, "experiment": experiment}


def test_events_are_counted_by_type_item_and_visitor_and_those_of_the_console_by_themselves() -> None:
    events = [
        (10.0, logged("u1", "i1")),
        (10.5, logged("u1", "i1", type="purchase")),
        (39.9, logged("u2", "i2", origin="assistant")),
        (20.0, logged("u3", "i2", origin=CONSOLE_ORIGIN)),
    ]
    found = summarize(events, since=10.0, until=40.0)
    assert (found["events"], found["console"], found["visitors"]) == (3, 1, 2)
    assert found["by_type"] == {"click": 2, "purchase": 1}
    assert found["by_origin"] == {"shop": 2, "assistant": 1}
    assert found["bins"] == [2] + [0] * (NUM_BINS - 2) + [1]
    assert found["top_items"][0] == {"item_id": "i1", "events": 2, "purchases": 1}
    assert found["top_users"] == [{"user_id": "u1", "events": 2}, {"user_id": "u2", "events": 1}]


def test_an_event_counts_for_the_model_and_arm_of_the_list_that_it_names() -> None:
    documents = [
        document("r1"),
        document("r2", source="popular"),
        document("r3", kind="hatllm", arm="hatllm"),
        document("r4", kind="hatllm", arm="hatllm"),
    ]
    events = [
        logged("u1", "i1", list_id="r1"),
        logged("u1", "i1", type="purchase", list_id="r1"),
        logged("u1", "i2", list_id="r2"),
        logged("u2", "i1", list_id="r4", origin=CONSOLE_ORIGIN),
        logged("u2", "i2", list_id="of another time"),
        logged("u2", "i3"),
    ]
    assert count_outcomes(documents, events) == [
        {"kind": "hatllm", "arm": "hatllm", "lists": 2, "by_model": 2, "events": {}},
        {"kind": "hllm", "arm": "none", "lists": 2, "by_model": 1, "events": {"click": 2, "purchase": 1}},
    ]


async def test_activity_is_of_the_time_that_is_asked_for(own_client: httpx2.AsyncClient) -> None:
    answers = [
        (await own_client.post("/recommend", json={"history": ["i1"], "k": 3, "model": kind})).json()
        for kind in ("hllm", "hllm", "hatllm")
    ]
    clicked = {"recommendation_id": answers[0]["recommendation_id"]}
    events = [
        event("u1", "i9", NOW, **clicked),
        event("u2", "i9", NOW, type="purchase", **clicked),
        event("u3", "i9", NOW, properties={"origin": "console"}, **clicked),
    ]
    assert (await own_client.post("/events", json={"events": events})).status_code == 200
    expected = [
        {"kind": "hatllm", "arm": "none", "lists": 1, "by_model": 1, "events": {}},
        {"kind": "hllm", "arm": "none", "lists": 2, "by_model": 2, "events": {"click": 1, "purchase": 1}},
    ]
    deadline = time.monotonic() + 15  # records are written beside the requests
    while (found := (await own_client.get("/console/activity?minutes=15")).json())["outcomes"]["rows"] != expected:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)
    assert found["outcomes"]["is_cut"] is False
    assert (found["events"], found["console"]) == (2, 1)
    assert found["until"] - found["since"] == pytest.approx(15 * 60)
    assert (await own_client.get("/console/activity?minutes=0")).status_code == 422
    assert (await own_client.get("/console/activity?minutes=10081")).status_code == 422


async def test_without_decision_records_nobody_knows_what_lists_lead_to(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"decision_max_mb": 0})) as (_, client):
        assert (await client.get("/console/activity")).json()["outcomes"] is None


async def test_visitors_with_a_history_worth_a_look_come_first(own_client: httpx2.AsyncClient) -> None:
    def events_of(user: str, count: int, **more: object) -> list[dict[str, object]]:
        return [event(user, f"i{number}", NOW + number, **more) for number in range(1, count + 1)]

    for events in (
        events_of("much", 5),
        events_of("some", 3),
        events_of("little", 1),
        events_of("operator", 9, properties={"origin": "console"}),
    ):
        assert (await own_client.post("/events", json={"events": events})).status_code == 200
        await asyncio.sleep(0.002)  # the log tells milliseconds apart
    visitors = (await own_client.get("/console/visitors")).json()["visitors"]
    found = [(it["user_id"], it["events"]) for it in visitors if it["user_id"] != "operator"]
    assert found == [("some", 3), ("much", 5), ("little", 1)]
