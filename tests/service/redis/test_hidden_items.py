"""Hidden items: durable in Redis, in force at once on every replica, on every path."""

import asyncio
import hashlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.errors import HistoryUnavailable, TooManyHidden
from service.redis.calls import RedisCalls, connect
from service.redis.hidden import RedisHiddenItems
from service.settings import ApiKey, Settings
from tests.processes.redis_processes import RedisProcess, start_cluster
from tests.shop import NUM_ITEMS, event, item_ids, running_app

ALL_ITEMS = {f"i{number}" for number in range(1, NUM_ITEMS + 1)}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A server of its own: what is hidden holds for all of it."""
    with RedisProcess(tmp_path_factory.mktemp("hidden")) as process:
        yield process


@pytest.fixture
def own_redis(redis: RedisProcess) -> RedisProcess:
    with redis.client() as client:
        client.flushall()
    return redis


def _open(redis: RedisProcess, *, patience_seconds: float = 0.25) -> tuple[RedisHiddenItems, RedisCalls]:
    client = connect(redis.url, cluster=False, timeout_seconds=1.0)
    calls = RedisCalls(client, timeout_seconds=1.0)
    return RedisHiddenItems(calls, patience_seconds=patience_seconds), calls


@pytest.fixture
async def replicas(own_redis: RedisProcess) -> AsyncIterator[list[RedisHiddenItems]]:
    opened = [_open(own_redis) for _ in range(3)]
    yield [hidden for hidden, _ in opened]
    for _, calls in opened:
        await calls.aclose()


async def _ids(hidden: RedisHiddenItems) -> frozenset[str]:
    current = await hidden.current(within=5)
    assert current.is_known
    return current.item_ids


async def test_what_one_replica_hides_no_other_returns(replicas: list[RedisHiddenItems]) -> None:
    assert await _ids(replicas[0]) == frozenset()
    since = time.time()
    item = await replicas[1].hide("i1")
    assert item.hidden_at == pytest.approx(since, abs=2)
    assert [await _ids(one) for one in replicas] == [{"i1"}] * 3
    assert (await replicas[2].hide("i1")).hidden_at == item.hidden_at
    await replicas[2].hide("ü/ 2")
    await replicas[0].show("i1")
    assert [await _ids(one) for one in replicas] == [{"ü/ 2"}] * 3
    assert (await replicas[0].show("i1")).hidden_at is None
    # a set that has not changed is the same object, and what was computed of it is still good
    assert (await replicas[0].current(within=5)) is (await replicas[0].current(within=5))


_STEPS = st.lists(
    st.tuples(st.sampled_from(["hide", "show", "look", "look", "flush", "new"]), st.integers(0, 2), st.integers(0, 5)),
    max_size=30,
)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS, max_shown=st.integers(1, 3))
def test_every_replica_knows_the_set_whatever_it_missed(
    own_redis: RedisProcess, steps: list[tuple[str, int, int]], max_shown: int
) -> None:
    async def run() -> None:
        opened = [_open(own_redis, patience_seconds=5) for _ in range(3)]
        expected: set[str] = set()
        with own_redis.client() as client:
            client.flushall()
            for step, replica, item in steps:
                hidden, item_id = opened[replica][0], f"i{item}"
                if step == "hide":
                    await hidden.hide(item_id)
                    expected.add(item_id)
                elif step == "show":
                    await hidden.show(item_id)
                    expected.discard(item_id)
                elif step == "flush":
                    client.flushall()
                    expected.clear()
                elif step == "new":
                    opened.append(opened[replica])
                    opened[replica] = _open(own_redis, patience_seconds=5)
                else:
                    assert await _ids(hidden) == expected
            for hidden, _ in opened:
                assert await _ids(hidden) == expected
        for calls in dict(opened).values():
            await calls.aclose()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.redis.hidden._MAX_SHOWN", max_shown)
        asyncio.run(run())


async def test_what_redis_has_lost_is_not_hidden_by_whoever_hid_it(
    replicas: list[RedisHiddenItems], own_redis: RedisProcess
) -> None:
    assert await _ids(replicas[0]) == frozenset()
    await replicas[0].hide("i1")
    with own_redis.client() as client:
        client.flushall()
    # the version is the one that was read last: that of a set that never had an item
    assert [await _ids(one) for one in replicas] == [frozenset()] * 3


async def test_whoever_asks_after_an_item_was_hidden_knows_it(replicas: list[RedisHiddenItems]) -> None:
    hidden_so_far: set[str] = set()

    async def hide_some() -> None:
        for number in range(40):
            await replicas[0].hide(f"i{number}")
            hidden_so_far.add(f"i{number}")

    async def ask(replica: RedisHiddenItems) -> None:
        while len(hidden_so_far) < 40:
            before = set(hidden_so_far)
            assert before <= (await replica.current(within=5)).item_ids

    await asyncio.gather(hide_some(), *(ask(replica) for replica in replicas for _ in range(20)))


async def test_the_question_leaves_with_the_other_commands_of_the_request(
    own_redis: RedisProcess, replicas: list[RedisHiddenItems]
) -> None:
    calls = RedisCalls(connect(own_redis.url, cluster=False, timeout_seconds=1.0), timeout_seconds=1.0)
    hidden = RedisHiddenItems(calls)
    await _ids(hidden)

    async def ask() -> None:
        reading = hidden.current(within=5)
        async with calls.calling("count"):
            await calls.command("ZCARD", "nobody")
        assert (await reading).is_known

    with own_redis.client() as client:
        before = client.info("stats")["total_reads_processed"]
        await ask()
        # one read of the server for both commands, one for this question
        assert client.info("stats")["total_reads_processed"] - before == 2
        before = client.info("stats")["total_reads_processed"]
        await asyncio.gather(*(ask() for _ in range(100)))
        assert client.info("stats")["total_reads_processed"] - before < 20
    await calls.aclose()


async def test_a_question_that_nobody_awaits_leaves_no_trace(
    own_redis: RedisProcess, replicas: list[RedisHiddenItems]
) -> None:
    own_redis.send(signal.SIGSTOP)
    try:
        replicas[0].current(within=5).close()
    finally:
        own_redis.kill()
        own_redis.start()
    assert await _ids(replicas[0]) == frozenset()


async def test_without_redis_the_last_known_set_holds(
    own_redis: RedisProcess, replicas: list[RedisHiddenItems]
) -> None:
    await replicas[0].hide("i1")
    assert await _ids(replicas[1]) == {"i1"}
    try:
        own_redis.send(signal.SIGSTOP)
        started = time.perf_counter()
        assert await _ids(replicas[1]) == {"i1"}
        assert await asyncio.gather(*(_ids(replicas[1]) for _ in range(100))) == [{"i1"}] * 100
        assert time.perf_counter() - started < 2
        assert (await replicas[2].current(within=0.05)).is_known is False
        own_redis.kill()
        assert await _ids(replicas[1]) == {"i1"}
        with pytest.raises(HistoryUnavailable):
            await replicas[1].hide("i2")
    finally:
        own_redis.kill()
        own_redis.start()
    # durable, and current again with the first question that is answered
    assert [await _ids(one) for one in replicas] == [{"i1"}] * 3


async def test_as_many_items_as_may_be_hidden(
    replicas: list[RedisHiddenItems], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.redis.hidden.MAX_HIDDEN", 2)
    for item in ("a", "b", "a"):
        await replicas[0].hide(item)
    with pytest.raises(TooManyHidden):
        await replicas[0].hide("c")
    await replicas[0].show("a")
    await replicas[0].hide("c")
    assert await _ids(replicas[1]) == {"b", "c"}
    total, newest = await replicas[1].newest(offset=0, limit=1)
    assert (total, [item.item_id for item in newest]) == (2, ["c"])


async def test_a_cluster_hides_as_one_server_does(tmp_path: Path) -> None:
    nodes = start_cluster(tmp_path)
    clients = [connect(node.url, cluster=True, timeout_seconds=5.0) for node in nodes[:2]]
    calls = [RedisCalls(client, timeout_seconds=5.0) for client in clients]
    replicas = [RedisHiddenItems(one, patience_seconds=5.0) for one in calls]
    try:
        await replicas[0].hide("i1")
        await replicas[1].hide("i2")
        await replicas[1].show("i1")
        assert [await _ids(one) for one in replicas] == [{"i2"}] * 2
    finally:
        for one in calls:
            await one.aclose()
        for node in nodes:
            node.kill()


async def test_a_hidden_item_is_on_no_path_of_any_replica(both_settings: Settings, own_redis: RedisProcess) -> None:
    own_settings = both_settings.model_copy(update={"redis_url": own_redis.url})
    async with running_app(own_settings) as (_, one), running_app(own_settings) as (_, other):
        user = "user-of-hidden"
        await one.post("/events", json={"events": [event(user, "i9", 1)]})
        bodies = [
            {"history": ["i9"]},
            {"user_id": user},
            {"user_id": user, "exclude_seen": False, "diversity": 0.4, "max_per": {"category": 20}},
            {"user_id": "nobody"},  # popular items
            {"history": ["i9"], "model": "hatllm"},
            {"history": ["i9"], "model": "hatllm", "mode": "generate"},
            {"history": ["i9"], "filter": {"category": {"any_of": ["Books"]}}},
        ]
        for hidden in ("i1", "i4", "not in the catalogue"):
            answer = await one.post(f"/admin/items/{hidden}/hide")
            assert (answer.status_code, answer.json()["hidden"]) == (200, True)
            for client in (other, one):
                for body in bodies:
                    found = item_ids(await client.post("/recommend", json={"k": 500, **body}))
                    assert len(found) == len(set(found))
                    assert hidden not in found
                similar = (await client.get("/items/i9/similar", params={"k": 500})).json()["items"]
                assert hidden not in {item["item_id"] for item in similar}
                searched = (await client.get("/items", params={"query": "thing", "limit": 500})).json()["items"]
                assert hidden not in {item["item_id"] for item in searched}
                assert (await client.get(f"/items/{hidden}")).json()["code"] == "hidden_item"
        assert set(item_ids(await other.post("/recommend", json={"user_id": "nobody", "k": 500}))) == ALL_ITEMS - {
            "i1",
            "i4",
        }
        listed = (await other.get("/admin/items/hidden", params={"limit": 2})).json()
        assert (listed["total"], [item["item_id"] for item in listed["items"]]) == (3, ["not in the catalogue", "i4"])
        assert "hatstand_hidden_items 3.0" in (await other.get("/metrics")).text
        answer = await other.post("/admin/items/i1/show")
        assert answer.json() == {"item_id": "i1", "hidden": False, "hidden_at": None}
        assert item_ids(await one.post("/recommend", json={"user_id": "nobody", "k": 1})) == ["i1"]
        assert (await one.get("/items/i1")).status_code == 200


async def test_many_hidden_items_are_left_out_like_few(
    settings: Settings, own_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.recommend.candidates.admissible._MANY_HIDDEN", 5)
    async with running_app(settings.model_copy(update={"redis_url": own_redis.url})) as (_, client):
        for number in range(1, 11):
            await client.post(f"/admin/items/i{number}/hide")
        for body in (
            {"history": ["i20"]},
            {"user_id": "nobody"},
            {"history": ["i20"], "filter": {"stock": {"lte": 12}}},
        ):
            found = item_ids(await client.post("/recommend", json={"k": 500, **body}))
            expected = (
                {"i11", "i12"}
                if "filter" in body
                else {f"i{number}" for number in range(11, 61)} - set(body.get("history", []))
            )
            assert set(found) == expected


async def test_hiding_wants_the_admin_scope(settings: Settings, own_redis: RedisProcess) -> None:
    keys = tuple(
        ApiKey(name=scope, sha256=hashlib.sha256(scope.encode()).hexdigest(), scopes=frozenset([scope]))
        for scope in ("recommend", "admin")
    )
    async with running_app(settings.model_copy(update={"redis_url": own_redis.url, "api_keys": keys})) as (_, client):
        for method, path in (
            ("POST", "/admin/items/i1/hide"),
            ("POST", "/admin/items/i1/show"),
            ("GET", "/admin/items/hidden"),
        ):
            statuses = [
                (await client.request(method, path, headers={"x-api-key": key} if key else {})).status_code
                for key in (None, "recommend", "admin")
            ]
            assert statuses == [401, 403, 200]
        assert (await client.post(f"/admin/items/{'x' * 257}/hide", headers={"x-api-key": "admin"})).status_code == 422


async def test_without_redis_from_the_start_an_answer_says_that_hidden_items_are_not_known(
    settings: Settings, tmp_path: Path
) -> None:
    redis = RedisProcess(tmp_path)
    changed = settings.model_copy(update={"redis_url": redis.url, "redis_timeout_seconds": 0.5})
    async with running_app(changed) as (_, client):
        answer = await _recommend(client)
        assert [one.partition(":")[0] for one in answer.json()["warnings"]] == ["hidden_items_unknown"]
        refused = await client.post("/admin/items/i1/hide")
        assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
        redis.start()
        try:
            assert (await _recommend(client)).json()["warnings"] == []
        finally:
            redis.kill()


async def _recommend(client: httpx2.AsyncClient) -> httpx2.Response:
    return await client.post("/recommend", json={"history": ["i9"]})
