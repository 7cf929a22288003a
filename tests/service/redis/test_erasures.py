"""Who is erased on one replica is forgotten by all of them; one that may have missed somebody forgets everybody."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from model_store.people.owner import Owner
from service.errors import HistoryUnavailable
from service.people.forgetting import Forgetting
from service.redis.calls import RedisCalls, connect
from service.redis.erasures import Erasures
from service.settings import Settings
from tests.processes.redis_processes import RedisProcess
from tests.shop import event, running_app

ANNA, BELA = Owner("anna"), Owner("bela", is_session=True)
EVERYBODY = "everybody"


class Memory:
    """What encoders keep, as far as forgetting is concerned: it notes whom it was told to forget."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_stuck = False

    async def forget(self, owner_hashes: Sequence[str]) -> int:
        if self.is_stuck:
            raise RuntimeError("the model is stuck")
        self.told += owner_hashes
        return 0

    async def forget_all(self) -> None:
        self.told.append(EVERYBODY)


class Replica:
    """What one replica was told."""

    def __init__(self, redis: RedisProcess) -> None:
        self.calls = RedisCalls(connect(redis.url, cluster=False, timeout_seconds=1.0), timeout_seconds=1.0)
        self.memory, forgetting = Memory(), Forgetting()
        forgetting.register_states(self.memory)
        self.erasures = Erasures(self.calls, forgetting)

    async def news(self) -> list[str]:
        """What it is told by another look."""
        self.memory.told.clear()
        await self.erasures.look()
        return list(self.memory.told)


@pytest.fixture
async def replicas(own_redis: RedisProcess) -> AsyncIterator[list[Replica]]:
    started = [Replica(own_redis) for _ in range(2)]
    for replica in started:
        # what it kept before its first look, somebody may have erased
        assert await replica.news() == [EVERYBODY]
    yield started
    for replica in started:
        await replica.calls.aclose()


async def test_every_replica_hears_of_everybody_once_and_of_nobody_by_name(
    replicas: list[Replica], own_redis: RedisProcess
) -> None:
    one, other = replicas
    assert await other.news() == []
    await one.erasures.tell(ANNA)
    await one.erasures.tell(BELA)
    # who tells has forgotten already, and may have been told more since
    assert await one.news() == []
    assert await other.news() == [ANNA.hash, BELA.hash]
    assert await other.news() == []
    await other.erasures.tell(ANNA)
    assert await one.news() == [ANNA.hash]
    with own_redis.client() as client:
        assert b"anna" not in b"".join(
            value for _, fields in client.xrange("hatstand:{erased}:owners") for value in fields.values()
        )


async def test_who_may_have_missed_somebody_forgets_everybody(replicas: list[Replica], own_redis: RedisProcess) -> None:
    one, other = replicas
    await one.erasures.tell(ANNA)
    assert await other.news() == [ANNA.hash]
    await one.erasures.tell(BELA)
    with own_redis.client() as client:
        client.xtrim("hatstand:{erased}:owners", maxlen=1, approximate=False)
    assert await other.news() == [EVERYBODY]
    assert await other.news() == []
    with own_redis.client() as client:
        client.flushall()
    assert await other.news() == [EVERYBODY]
    await one.erasures.tell(ANNA)
    assert await other.news() == [ANNA.hash]


async def test_who_starts_with_nothing_kept_forgets_nobody(replicas: list[Replica], own_redis: RedisProcess) -> None:
    replica = Replica(own_redis)
    await replicas[0].erasures.tell(BELA)
    await replica.erasures.start()
    await replicas[0].erasures.tell(ANNA)
    async with asyncio.timeout(10):
        while not replica.memory.told:
            await asyncio.sleep(0.05)
    assert replica.memory.told == [ANNA.hash]
    await replica.erasures.aclose()
    await replica.calls.aclose()


async def test_what_could_not_be_forgotten_is_told_again(replicas: list[Replica]) -> None:
    one, other = replicas
    await one.erasures.tell(ANNA)
    other.memory.is_stuck = True
    with pytest.raises(RuntimeError, match="stuck"):
        await other.erasures.look()
    other.memory.is_stuck = False
    assert await other.news() == [ANNA.hash]


async def test_without_redis_nothing_is_told(replicas: list[Replica], own_redis: RedisProcess) -> None:
    own_redis.kill()
    with pytest.raises(HistoryUnavailable):
        await replicas[0].erasures.tell(ANNA)
    with pytest.raises(HistoryUnavailable):
        await replicas[1].erasures.look()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("who", ["user", "session", "merged"])
async def test_no_replica_remembers_whom_another_has_erased(both_root: Path, own_redis: RedisProcess, who: str) -> None:
    settings = Settings(store=str(both_root), redis_url=own_redis.url)
    async with AsyncExitStack() as stack:
        (_, first), (app, second) = [await stack.enter_async_context(running_app(settings)) for _ in range(2)]
        service = app.state.service
        owner = Owner("gone", is_session=who != "user")

        def kept() -> list[bool]:
            is_remembered = service.last_known.histories.last(owner) is not None
            return [is_remembered, service.user_states.kept_bytes()["hatllm"] > 0]

        await _until(lambda: service.erasures.is_listening)
        before = service.last_known.forgetting.count
        named = {"user_id": "gone"} if who == "user" else {"session_id": "gone"}
        reported = event("gone", "i1", 1)
        if who != "user":
            del reported["user_id"]
        await _ok(first.post("/events", json={"events": [{**reported, **named}]}))
        await _ok(second.post("/recommend", json={**named, "k": 3, "model": "hatllm"}))
        assert kept() == [True, who == "user"]  # encoders keep nothing of sessions
        if who == "merged":
            await _ok(first.post("/users/anna/merge", json={"session_id": "gone"}))
        else:
            await _ok(first.delete(f"/{who}s/gone"))
        await _until(lambda: kept() == [False, False])
        assert service.last_known.forgetting.count > before


async def test_with_a_user_go_the_sessions_that_were_merged_into_them_wherever_they_are_kept(
    both_root: Path, own_redis: RedisProcess
) -> None:
    settings = Settings(store=str(both_root), redis_url=own_redis.url)
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(running_app(settings)) for _ in range(2)]
        services, clients = [app.state.service for app, _ in running], [client for _, client in running]
        await _until(lambda: all(one.erasures.is_listening for one in services))
        for number in range(2):
            reported = {"session_id": "visit", "item_id": f"i{number + 1}", "timestamp": number + 1}
            await _ok(clients[0].post("/events", json={"events": [reported]}))
            if not number:
                await _ok(clients[0].post("/users/anna/merge", json={"session_id": "visit"}))
        await asyncio.gather(*(one.erasures.look() for one in services))
        for client in clients:
            await _ok(client.post("/recommend", json={"session_id": "visit", "k": 3, "paginate": True}))
        visit = Owner("visit", is_session=True)
        assert all(one.last_known.histories.last(visit) is not None for one in services)
        receipt = (await clients[0].delete("/users/anna")).json()
        records = {line["store"]: line["records"] for line in receipt["stores"]}
        assert len(records) == len(receipt["stores"])
        assert (records["redis:history"], records["redis:pages"], records["redis:sessions"]) == (2, 2, 1)
        await _until(lambda: all(one.last_known.histories.last(visit) is None for one in services))
        with own_redis.client() as redis:
            assert not [key for key in redis.keys("*") if b"page" in key]


async def _ok(answering: Any) -> None:
    answer: httpx2.Response = await answering
    assert answer.status_code == 200, answer.text
