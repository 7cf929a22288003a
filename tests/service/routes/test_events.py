"""``POST /events``, ``/users`` and what they promise together."""

import time
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.shop import event, item_ids

YEAR_30000 = 884_541_000_000


def _user() -> str:
    return f"user-{uuid4().hex}"


async def _report(client: httpx2.AsyncClient, *events: object) -> dict[str, Any]:
    answer = await client.post("/events", json={"events": list(events)})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def _history(client: httpx2.AsyncClient, user: str) -> list[str]:
    return [kept["item_id"] for kept in (await client.get(f"/users/{user}")).json()["history"]]


async def test_events_are_counted_and_kept_oldest_first(client: httpx2.AsyncClient) -> None:
    user = _user()
    body = await _report(client, event(user, "i2", 20), event(user, "i1", 10), event(user, "i2", 20))
    assert (body["accepted"], body["duplicates"], body["rejected"]) == (2, 1, [])
    assert len(body["event_token"]) == 16
    assert await _history(client, user) == ["i1", "i2"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"user_id": None}, "invalid_type"),
        ({"user_id": ...}, "missing_field"),
        ({"user_id": ""}, "empty"),
        ({"user_id": "u" * 257}, "too_long"),
        ({"item_id": ...}, "missing_field"),
        ({"item_id": "i" * 1_000}, "too_long"),
        ({"timestamp": "now"}, "invalid_type"),
        ({"timestamp": 1.5}, "invalid_type"),
        ({"timestamp": -1}, "out_of_range"),
        ({"timestamp": YEAR_30000}, "out_of_range"),
        ({"timestamp": int(time.time()) + 2 * 86_400}, "out_of_range"),
        ({"type": ""}, "empty"),
        ({"properties": {"text": "x" * 5_000}}, "out_of_range"),
        ({"properties": {"number": 2**70}}, "out_of_range"),
        ({"surprise": 1}, "unknown_field"),
        ({"session_id": "s"}, "ambiguous_owner"),
        ({"session_id": None}, "invalid_type"),
    ],
)
async def test_a_bad_event_rejects_itself_alone(
    client: httpx2.AsyncClient, change: dict[str, object], code: str
) -> None:
    user = _user()
    bad = {name: value for name, value in {**event(user, "i9", 5), **change}.items() if value is not ...}
    body = await _report(client, event(user, "i1", 1), bad, event(user, "i2", 2))
    assert body["accepted"] == 2
    (rejected,) = body["rejected"]
    assert (rejected["index"], rejected["code"], rejected["event_id"]) == (1, code, "i9-5")
    assert next(iter(change)) in rejected["detail"]
    assert await _history(client, user) == ["i1", "i2"]


async def test_things_that_are_no_events_are_rejected_one_by_one(client: httpx2.AsyncClient) -> None:
    body = await _report(client, 1, None, [], "event", {}, event(_user(), "i1", 1))
    assert body["accepted"] == 1
    assert [rejected["index"] for rejected in body["rejected"]] == [0, 1, 2, 3, 4]


async def test_a_batch_of_which_nothing_is_accepted_is_refused_and_says_why(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/events", json={"events": [1, {"user_id": "u"}, event("u", "i1", -1)]})
    assert (answer.status_code, answer.json()["code"]) == (422, "no_event_accepted")
    assert [(one["pointer"], one["code"]) for one in answer.json()["errors"]] == [
        ("/events/0", "invalid_type"),
        ("/events/1", "missing_field"),
        ("/events/2", "out_of_range"),
    ]
    assert (
        "none of 3 events was accepted; the first (invalid_type): event: expected an object" in answer.json()["detail"]
    )
    # what was taken before is no failure
    once = event(_user(), "i1", 1)
    assert (await _report(client, once))["accepted"] == 1
    again = await _report(client, once, 1)
    assert (again["accepted"], again["duplicates"], len(again["rejected"])) == (0, 1, 1)


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("2021-01-20T01:00:00Z", 1_611_104_400),
        ("2021-01-20T01:00:00+01:00", 1_611_100_800),
        ("2021-01-20T00:00:00.75", 1_611_100_800),
        ("2021-01-20", 1_611_100_800),
        (1_611_100_800, 1_611_100_800),
        (0, 0),
    ],
)
async def test_a_moment_is_seconds_or_iso_8601(client: httpx2.AsyncClient, timestamp: object, seconds: int) -> None:
    user = _user()
    await _report(client, {"user_id": user, "item_id": "i1", "timestamp": timestamp})
    (kept,) = (await client.get(f"/users/{user}")).json()["history"]
    assert kept["timestamp"] == seconds
    body = {"history": [{"item_id": "i1", "timestamp": timestamp}], "k": 1}
    assert (await client.post("/recommend", json=body)).status_code == 200


async def test_an_event_without_a_moment_happens_now(client: httpx2.AsyncClient) -> None:
    user, before = _user(), int(time.time())
    sent = {"user_id": user, "item_id": "i1", "event_id": "once"}
    assert (await _report(client, sent))["accepted"] == 1
    assert (await _report(client, sent))["duplicates"] == 1
    (kept,) = (await client.get(f"/users/{user}")).json()["history"]
    assert before <= kept["timestamp"] <= time.time()


@pytest.mark.parametrize(
    ("timestamp", "hint"),
    [
        (1_700_000_000_123, "these are milliseconds, it seems; expected seconds since 1970: 1700000000"),
        (1_700_000_000_123_456, "these are microseconds, it seems"),
        (1_700_000_000_123_456_789, "these are nanoseconds, it seems"),
        (10**30, "expected seconds since 1970, from 0 to"),
        ("1700000000", "expected seconds since 1970, or ISO 8601"),
        ("yesterday", "expected seconds since 1970, or ISO 8601"),
        ("1066-10-14", "expected seconds since 1970, from 0 to"),
        ("2021-13-01", "expected seconds since 1970, or ISO 8601"),
        (True, "expected seconds since 1970, or ISO 8601"),
        (None, "expected seconds since 1970, or ISO 8601"),
    ],
)
async def test_another_clock_is_refused_with_a_hint(client: httpx2.AsyncClient, timestamp: object, hint: str) -> None:
    wrong = {"user_id": "u", "item_id": "i1", "timestamp": timestamp}
    answer = await client.post("/events", json={"events": [wrong]})
    assert f"timestamp: {hint}" in answer.json()["errors"][0]["detail"], answer.text


async def test_events_of_unknown_items_are_taken_and_counted(client: httpx2.AsyncClient) -> None:
    user = _user()
    body = await _report(client, event(user, "i1", 1), event(user, "nobody-knows", 2), event(user, "nor-this", 3))
    assert (body["accepted"], body["unknown_items"]) == (3, 2)
    assert (await _report(client, event(user, "nor-this", 3)))["unknown_items"] == 0


@pytest.mark.parametrize("events", [[], [{}] * 1_001, "events", None])
async def test_a_batch_holds_1_to_1000_events(client: httpx2.AsyncClient, events: object) -> None:
    answer = await client.post("/events", json={"events": events})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_full_batch_is_taken(client: httpx2.AsyncClient) -> None:
    user = _user()
    body = await _report(client, *(event(user, f"i{number}", number) for number in range(1_000)))
    assert body["accepted"] == 1_000
    assert await _history(client, user) == [f"i{number}" for number in range(500, 1_000)]


async def test_a_caller_without_event_ids_may_send_again_too(client: httpx2.AsyncClient) -> None:
    user = _user()
    anonymous = {name: value for name, value in event(user, "i1", 10).items() if name != "event_id"}
    assert (await _report(client, anonymous))["accepted"] == 1
    assert (await _report(client, anonymous, {**anonymous, "timestamp": 11}))["duplicates"] == 1


async def test_an_item_that_is_not_in_the_catalogue_is_kept_and_skipped_by_the_model(
    client: httpx2.AsyncClient,
) -> None:
    user = _user()
    await _report(client, event(user, "tomorrow", 1), event(user, "i1", 2))
    answer = await client.post("/recommend", json={"user_id": user})
    assert answer.json()["history_length"] == 1
    assert answer.json()["warnings"] == ["unknown_history_items: 1 of 2 are not in the catalogue"]
    assert await _history(client, user) == ["tomorrow", "i1"]


async def test_erasure_forgets_the_user_and_gives_a_receipt(client: httpx2.AsyncClient) -> None:
    user = f"{_user()}/ünï code"
    await _report(client, event(user, "i1", 1), event(user, "i2", 2))
    receipt = (await client.delete(f"/users/{user}")).json()
    assert receipt["user_id"] == user
    stores = {store["store"]: store["records"] for store in receipt["stores"]}
    assert {name: stores[name] for name in ("redis:history", "redis:event_ids", "redis:event_log", "model_state")} == {
        "redis:history": 2,
        "redis:event_ids": 3,
        "redis:event_log": 2,
        "model_state": 0,
    }
    assert await _history(client, user) == []
    answer = await client.post("/recommend", json={"user_id": user, "k": 2})
    assert answer.json()["source"] == "fallback:popular"
    assert item_ids(answer) == ["i1", "i2"]
