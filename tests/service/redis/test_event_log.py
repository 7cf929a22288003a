"""The event log beside the histories: in the same step, never dropped, bounded, and read by replicas at once."""

import asyncio
import json
import time
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from redis.asyncio import Redis

from model_store.people.appending import RetentionLimits
from model_store.people.event_log import LoggedEvent, read_entry, stream_key
from model_store.people.owner import NUM_SHARDS, Owner
from service.errors import HistoryUnavailable
from service.people.history_store import Event
from service.redis.calls import RedisCalls, connect
from service.redis.embedded import EmbeddedRedis
from service.redis.event_log import EventLogWatch
from service.redis.histories import RedisHistoryStore
from service.settings import Settings
from tests.processes.redis_processes import RedisProcess
from tests.processes.service_process import service_process
from tests.shop import event, running_app


def _event(user: str, name: str) -> Event:
    return Event(name, Owner(user), f"item-{name}", 1)


def _two_of_one_shard() -> tuple[str, str]:
    first = f"user-{uuid4().hex}"
    while True:
        second = f"user-{uuid4().hex}"
        if Owner(second).shard == Owner(first).shard:
            return first, second


async def test_what_is_accepted_is_in_the_log_once_and_duplicates_are_not(redis_server: EmbeddedRedis) -> None:
    user = f"user-{uuid4().hex}"
    client = connect(redis_server.url, cluster=False, timeout_seconds=5)
    store = RedisHistoryStore(RedisCalls(client, timeout_seconds=5), limits=RetentionLimits())
    outcome = await store.append([_event(user, "a"), _event(user, "b"), _event(user, "a")])
    await store.append([_event(user, "b")])
    assert [one.event_id for one in outcome.new] == ["a", "b"]
    logged = [read_entry(fields) for _, fields in await client.xrange(stream_key(Owner(user).shard))]
    mine = [entry for entry in logged if isinstance(entry, LoggedEvent) and entry.owner == Owner(user)]
    assert mine == [LoggedEvent(Owner(user), f"item-{name}", 1, "click", name) for name in "ab"]
    await store.aclose()


async def test_a_full_log_refuses_new_events_and_forgets_nothing(own_redis: RedisProcess) -> None:
    first, second = _two_of_one_shard()
    client = connect(own_redis.url, cluster=False, timeout_seconds=5)
    store = RedisHistoryStore(RedisCalls(client, timeout_seconds=5), limits=RetentionLimits(max_logged=3 * NUM_SHARDS))
    await store.append([_event(first, name) for name in "abc"])
    for user, name in ((first, "d"), (second, "a")):
        with pytest.raises(HistoryUnavailable, match="the event log is full") as refused:
            await store.append([_event(user, name)])
        assert (refused.value.code, refused.value.retry_after_seconds) == ("event_log_full", 30)
    # sent again, what was acknowledged is acknowledged
    assert (await store.append([_event(first, "a")])).duplicates == 1
    assert [one.event_id for one in await store.events(Owner(first))] == ["a", "b", "c"]
    assert await store.events(Owner(second)) == []
    assert await client.xlen(stream_key(Owner(first).shard)) == 3
    # an erasure goes on, and makes room
    await store.erase(Owner(first))
    assert (await store.append([_event(second, "a")])).accepted == 1
    await store.aclose()


async def test_without_a_log_nothing_is_logged_and_nothing_fills_up(own_redis: RedisProcess) -> None:
    client = connect(own_redis.url, cluster=False, timeout_seconds=5)
    store = RedisHistoryStore(RedisCalls(client, timeout_seconds=5), limits=RetentionLimits(max_logged=0))
    await store.append([_event("u", str(number)) for number in range(100)])
    await store.erase(Owner("u"))
    assert [key async for key in client.scan_iter("*:log")] == []
    await store.aclose()


async def test_a_cluster_spreads_the_log_and_keeps_each_part_with_its_users(cluster: list[RedisProcess]) -> None:
    client = connect(cluster[0].url, cluster=True, timeout_seconds=5)
    store = RedisHistoryStore(RedisCalls(client, timeout_seconds=20), limits=RetentionLimits())
    users = [f"user-{number}" for number in range(300)]
    await store.append([_event(user, "a") for user in users])
    watch = EventLogWatch(RedisCalls(client, timeout_seconds=5), _Seen(), max_per_shard=100)
    fill = await watch.look()
    await store.aclose()
    assert fill.num_entries == 300
    assert 0.01 <= fill.fullest < 0.3
    assert 0 <= fill.oldest_seconds < 60
    for node in cluster:
        async with Redis(port=node.port) as one:
            keys = [key async for key in one.scan_iter("*")]
        assert 15 <= sum(key.endswith(b":log") for key in keys) <= 27  # 64 in all


class _Seen:
    def event_log_read(self, **_: object) -> None:
        pass


async def test_the_service_says_how_full_the_log_is_and_answers_503_with_a_code(
    settings: Settings, own_redis: RedisProcess
) -> None:
    small = settings.model_copy(update={"redis_url": own_redis.url, "event_log_max_events": 2 * NUM_SHARDS})
    async with running_app(small) as (app, client):
        body = {"events": [event("u", f"i{number}", number) for number in (1, 2)]}
        assert (await client.post("/events", json=body)).json()["accepted"] == 2
        refused = await client.post("/events", json={"events": [event("u", "i3", 3)]})
        assert refused.status_code == 503
        assert (refused.json()["code"], refused.headers["retry-after"]) == ("event_log_full", "30")
        assert (await client.post("/events", json=body)).json()["duplicates"] == 2
        calls = RedisCalls(connect(small.redis_url, cluster=False, timeout_seconds=5), timeout_seconds=5)
        watch = EventLogWatch(calls, app.state.metrics, max_per_shard=2)
        app.state.metrics.people.event_log_read(**asdict(await watch.look()))
        await calls.aclose()
        metrics = (await client.get("/metrics")).text
    assert "hatstand_event_log_entries 2.0" in metrics
    assert "hatstand_event_log_fullest_ratio 1.0" in metrics
    assert 'hatstand_errors_total{code="event_log_full"} 1.0' in metrics


def test_two_replicas_read_each_others_writes(shop_root: Path, own_redis: RedisProcess, tmp_path: Path) -> None:
    """Two processes, one Redis: an event that one has acknowledged is in the next answer of the other, every time."""
    shared = {"store": str(shop_root), "redis_url": own_redis.url}
    with (
        service_process(tmp_path / "one.log", **shared) as one,
        service_process(tmp_path / "other.log", **shared) as other,
        one.client() as first,
        other.client() as second,
    ):
        seen: set[str] = set()
        for number in range(1, 41):
            writer, reader = (first, second) if number % 2 else (second, first)
            reported = writer.post("/events", json={"events": [event("u", f"i{number}", number)]}).json()
            seen.add(f"i{number}")
            body = {"user_id": "u", "k": 60, "min_event_token": reported["event_token"]}
            answer = reader.post("/recommend", json=body).json()
            recommended = {item["item_id"] for item in answer["items"]}
            assert not recommended & seen
            assert answer["source"] == "model"
            assert not any(warning.startswith("event_token_unknown") for warning in answer["warnings"])
        unknown = second.post("/recommend", json={"user_id": "u", "min_event_token": "never"}).json()
        assert any(warning.startswith("event_token_unknown") for warning in unknown["warnings"])
        # erased by one, forgotten by the other
        first.delete("/users/u")
        assert second.post("/recommend", json={"user_id": "u", "k": 3}).json()["source"].startswith("fallback:")


async def test_events_are_counted_by_what_led_to_them(client: httpx2.AsyncClient) -> None:
    user = f"user-{uuid4().hex}"
    await client.post("/events", json={"events": [event(user, "i1", 1)]})
    answer = (await client.post("/recommend", json={"user_id": user, "k": 3})).json()
    name = answer["recommendation_id"]
    first, second, third = (item["item_id"] for item in answer["items"])
    reported = [
        event(user, first, 10, type="click", recommendation_id=name),
        event(user, second, 11, type="purchase", recommendation_id=name),
        event(user, third, 12, type="an own word", recommendation_id=name),
        event(user, "i9", 13, recommendation_id="of another system"),
        event(user, "i8", 14, recommendation_id="0" * 32),
        event(user, "i7", 15),
    ]
    for _ in range(2):  # what comes again counts once
        accepted = await client.post("/events", json={"events": reported})
        assert accepted.json()["rejected"] == []
    deadline = time.monotonic() + 10
    wanted = {
        f'hatstand_attributed_events_total{{arm="none",kind="hllm",source="model",type="{kind}"}} 1.0'
        for kind in ("click", "purchase", "other")
    } | {'hatstand_unattributed_events_total{reason="unknown_id"} 2.0'}
    metrics = ""
    while time.monotonic() < deadline and not wanted <= set(metrics.splitlines()):
        await asyncio.sleep(0.05)
        metrics = (await client.get("/metrics")).text
    assert wanted <= set(metrics.splitlines())
    history = (await client.get(f"/users/{user}")).json()["history"]
    assert [kept["recommendation_id"] for kept in history] == [
        None,
        name,
        name,
        name,
        "of another system",
        "0" * 32,
        None,
    ]
    assert json.dumps(history)
