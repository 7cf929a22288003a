"""Sessions in a real Redis and a real cluster: a history of their own, and their merging into a user's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx2
import pytest

from model_store.people.appending import RetentionLimits
from model_store.people.event_log import stream_key
from model_store.people.owner import Owner
from service.people.history_store import Event
from service.redis.calls import RedisCalls, connect
from service.redis.embedded import EmbeddedRedis
from service.redis.histories import RedisHistoryStore
from service.redis.keys import owner_key
from tests.shop import Address, item_ids


@asynccontextmanager
async def opened(address: Address, **limits: int) -> AsyncIterator[RedisHistoryStore]:
    client = connect(address[0], cluster=address[1], timeout_seconds=5)
    store = RedisHistoryStore(RedisCalls(client, timeout_seconds=10), limits=RetentionLimits(**limits))
    try:
        yield store
    finally:
        await store.aclose()


def _session(name: str) -> Owner:
    return Owner(name, is_session=True)


def _name(kind: str) -> str:
    return f"{kind}-{uuid4().hex}"


def _in_session(session: str, name: str, timestamp: int = 1) -> Event:
    return Event(name, _session(session), f"item-{name}", timestamp)


def _of_user(user: str, name: str, timestamp: int = 1) -> Event:
    return Event(name, Owner(user), f"item-{name}", timestamp)


async def _names(store: RedisHistoryStore, *, user: str = "", session: str = "") -> list[str]:
    return [event.event_id for event in await store.events(Owner(user) if user else _session(session))]


async def test_a_session_and_a_user_of_the_same_id_are_two(address: Address) -> None:
    name = _name("same")
    async with opened(address) as store:
        outcome = await store.append([_in_session(name, "a"), _of_user(name, "b")])
        assert outcome.accepted == 2
        (event,) = await store.events(_session(name))
        assert event == _in_session(name, "a")
        assert await _names(store, user=name) == ["b"]
        await store.erase(_session(name))
        assert await _names(store, session=name) == []
        assert await _names(store, user=name) == ["b"]


async def test_merging_puts_a_sessions_events_to_their_places_in_the_users_history(address: Address) -> None:
    session, user = _name("s"), _name("u")
    async with opened(address) as store:
        await store.append([_of_user(user, "first", 1), _of_user(user, "third", 3), _of_user(user, "both", 9)])
        await store.append([_in_session(session, "second", 2), _in_session(session, "both", 9)])
        outcome = await store.merge(_session(session), Owner(user))
        assert (outcome.moved, outcome.duplicates) == (1, 1)
        assert await _names(store, user=user) == ["first", "second", "third", "both"]
        assert await _names(store, session=session) == []
        again = await store.merge(_session(session), Owner(user))
        assert (again.moved, again.duplicates) == (0, 0)
        # what was reported for the session is not new when it is reported again
        assert (await store.append([_in_session(session, "second", 2)])).duplicates == 1


async def test_a_merge_that_was_killed_half_way_is_finished_by_the_next_one(address: Address) -> None:
    session, user = _name("s"), _name("u")
    owner = Owner(session, is_session=True)
    async with opened(address) as store:
        await store.append([_in_session(session, name, at) for at, name in enumerate("abc")])
        client = connect(address[0], cluster=address[1], timeout_seconds=5)
        kept = await client.dump(owner_key(owner, "history"))
        await store.merge(_session(session), Owner(user))
        # as if the process had died after the events were added to the user, and before they left the session
        await client.restore(owner_key(owner, "history"), 60_000, kept)
        assert await _names(store, session=session) == await _names(store, user=user) == ["a", "b", "c"]
        outcome = await store.merge(_session(session), Owner(user))
        assert (outcome.moved, outcome.duplicates) == (0, 3)
        assert await _names(store, session=session) == []
        assert await _names(store, user=user) == ["a", "b", "c"]
        entries = await client.xrange(stream_key(owner.shard))
        await client.aclose()
    # each event once, under the session; the merges are notes
    assert sum(fields.get(b"s") == session.encode() for _, fields in entries) == 3
    assert sum(fields.get(b"m") == session.encode() for _, fields in entries) == 2


async def test_events_that_come_while_a_session_is_merged_are_not_lost(address: Address) -> None:
    session, user = _name("s"), _name("u")
    async with opened(address) as store:
        await store.append([_in_session(session, "0")])

        async def report() -> None:
            for number in range(1, 60):
                await store.append([_in_session(session, str(number))])

        async def merge() -> None:
            for _ in range(15):
                await store.merge(_session(session), Owner(user))

        await asyncio.gather(report(), merge())
        await store.merge(_session(session), Owner(user))
        assert sorted(map(int, await _names(store, user=user))) == list(range(60))
        assert await _names(store, session=session) == []


async def test_erasing_a_user_reaches_the_sessions_that_were_merged_into_them(address: Address) -> None:
    sessions, user = [_name("s"), _name("s")], _name("u")
    async with opened(address) as store:
        for session in sessions:
            await store.append([_in_session(session, "a"), _in_session(session, "b")])
            await store.merge(_session(session), Owner(user))
        await store.append([_in_session(sessions[0], "late")])
        receipt = {line.store: line.records for line in await store.erase(Owner(user))}
        # the two of the user (both sessions have the same event ids), and the late one; the log has all five
        assert (receipt["redis:history"], receipt["redis:event_log"], receipt["redis:sessions"]) == (3, 5, 2)
        assert await _names(store, session=sessions[0]) == []
        client = connect(address[0], cluster=address[1], timeout_seconds=5)
        for owner in (Owner(user), *(Owner(session, is_session=True) for session in sessions)):
            left = [fields for _, fields in await client.xrange(stream_key(owner.shard))]
            assert not any(owner.id.encode() in fields.values() for fields in left if b"p" in fields)
            assert any(fields.get(b"x") == owner.hash.encode() for fields in left)
        await client.aclose()


async def test_a_session_is_forgotten_sooner_than_a_user(redis_server: EmbeddedRedis) -> None:
    session, user = _name("s"), _name("u")
    async with opened((redis_server.url, False), session_ttl_seconds=1) as store:
        await store.append([_in_session(session, "a"), _of_user(user, "a")])
        await asyncio.sleep(1.2)
        assert await _names(store, session=session) == []
        assert await _names(store, user=user) == ["a"]


async def test_a_visitor_signs_in(client: httpx2.AsyncClient) -> None:
    session, user = _name("s/ü"), _name("u/ü")
    events = [
        {"session_id": session, "item_id": f"i{number}", "timestamp": number, "event_id": f"e{number}"}
        for number in (1, 2, 3)
    ]
    assert (await client.post("/events", json={"events": events})).json()["accepted"] == 3
    shown = (await client.get(f"/sessions/{session}")).json()
    assert [event["item_id"] for event in shown["history"]] == ["i1", "i2", "i3"]
    answer = await client.post(f"/users/{user}/merge", json={"session_id": session})
    assert answer.json() == {"user_id": user, "session_id": session, "moved": 3, "duplicates": 0}
    assert (await client.get(f"/sessions/{session}")).json()["history"] == []
    recommended = await client.post("/recommend", json={"user_id": user, "k": 60})
    assert recommended.json()["source"] == "model"
    assert not {"i1", "i2", "i3"} & set(item_ids(recommended))
    receipt = (await client.delete(f"/users/{user}")).json()
    assert {"store": "redis:sessions", "records": 1} in receipt["stores"]


async def test_a_session_can_be_erased_by_itself(client: httpx2.AsyncClient) -> None:
    session = _name("s")
    await client.post("/events", json={"events": [{"session_id": session, "item_id": "i1", "timestamp": 1}]})
    receipt = (await client.delete(f"/sessions/{session}")).json()
    assert (receipt["user_id"], receipt["session_id"]) == (None, session)
    stores = {store["store"]: store["records"] for store in receipt["stores"]}
    assert (stores["redis:history"], stores["redis:event_log"]) == (1, 1)
    assert (await client.get(f"/sessions/{session}")).json()["history"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 422), ({"session_id": ""}, 422), ({"session_id": 1}, 422), ({"session_id": "s", "x": 1}, 422)],
)
async def test_a_merge_needs_a_session(client: httpx2.AsyncClient, body: dict[str, object], status: int) -> None:
    answer = await client.post("/users/u/merge", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
