"""Rates: the same rule in Redis, shared by replicas, and in each process when Redis is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.http.rate_limits import LocalTurns, Rate, RateLimits, Turn, caller_of_address, rate_of
from service.redis.calls import RedisCalls, connect
from service.redis.embedded import EmbeddedRedis
from service.redis.rates import RedisTurns
from tests.processes.redis_processes import RedisProcess

TEN_AT_ONCE = Rate(per_minute=600, burst=10)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def turns(redis_server: EmbeddedRedis) -> AsyncIterator[RedisTurns]:
    turns = RedisTurns(RedisCalls(connect(redis_server.url, cluster=False, timeout_seconds=2), timeout_seconds=2))
    yield turns
    await turns.aclose()


def test_a_burst_passes_then_an_even_rate() -> None:
    clock = Clock()
    local = LocalTurns(clock=clock)
    assert [local.take("a", TEN_AT_ONCE).left for _ in range(10)] == list(reversed(range(10)))
    refused = local.take("a", TEN_AT_ONCE)
    assert not refused.may_pass
    assert refused.wait_seconds == pytest.approx(0.1)
    assert refused.full_seconds == pytest.approx(1.0)
    assert local.take("b", TEN_AT_ONCE).may_pass
    passed = 0
    for _ in range(1_000):  # ten seconds
        clock.now += 0.01
        passed += local.take("a", TEN_AT_ONCE).may_pass
    assert passed == 100
    clock.now += 60
    assert local.take("a", TEN_AT_ONCE).left == 9


def test_callers_that_are_counted_here_are_bounded() -> None:
    local = LocalTurns(max_callers=100)
    for number in range(1_000):
        local.take(str(number), TEN_AT_ONCE)
    assert len(local) == 100


async def test_redis_counts_by_the_same_rule(turns: RedisTurns) -> None:
    who = f"key:{time.time()}"
    slow = Rate(per_minute=6, burst=3)
    answers = [await turns.take(who, slow) for _ in range(4)]
    assert [answer.may_pass for answer in answers] == [True, True, True, False]
    assert [answer.left for answer in answers] == [2, 1, 0, 0]
    assert answers[3].wait_seconds == pytest.approx(10, abs=1)
    assert answers[2].full_seconds == pytest.approx(30, abs=1)


async def test_replicas_share_one_limit_and_leave_no_key_behind(redis_server: EmbeddedRedis) -> None:
    clients = [connect(redis_server.url, cluster=False, timeout_seconds=2) for _ in range(3)]
    replicas = [RedisTurns(RedisCalls(client, timeout_seconds=2)) for client in clients]
    who, rate = f"key:{time.time()}", Rate(per_minute=60_000, burst=50)
    try:
        answers = await asyncio.gather(*(replica.take(who, Rate(1, 50)) for replica in replicas for _ in range(40)))
        assert sum(answer.may_pass for answer in answers) == 50
        await replicas[0].take("soon-full", rate)
        await asyncio.sleep(0.1)
        keys = await clients[0].keys("hatstand:rate:*")
        assert all(b"key:" not in key for key in keys)
        lives = [await clients[0].pttl(key) for key in keys]
        # -2: it has ended since; none may stay without an end (-1)
        assert all(life == -2 or 0 < life <= 3_000_001 for life in lives)
    finally:
        for replica in replicas:
            await replica.aclose()


async def test_without_redis_each_replica_counts_by_itself_and_nobody_waits(tmp_path: Path) -> None:
    server = RedisProcess(tmp_path)
    server.start()
    shared = RedisTurns(RedisCalls(connect(server.url, cluster=False, timeout_seconds=0.1), timeout_seconds=0.1))
    limits = RateLimits(shared)
    rate = Rate(per_minute=6, burst=2)
    try:
        assert (await limits.take("a", rate)).left == 1
        server.kill()
        started = time.monotonic()
        answers = [await limits.take("a", rate) for _ in range(50)]
        assert time.monotonic() - started < 2.5  # five, were each of them to wait
        assert sum(answer.may_pass for answer in answers) == 2
        server.start()
        await asyncio.sleep(1.1)
        assert (await limits.take("b", rate)).left == 1
        assert (await limits.take("b", rate)).left == 0
    finally:
        server.kill()
        await shared.aclose()


async def test_a_shared_count_that_hangs_holds_a_request_up_once_a_second_and_shortly() -> None:
    class Hanging:
        asked = 0

        async def take(self, who: str, rate: Rate) -> Turn:  # noqa: ARG002 - as the protocol has it
            self.asked += 1
            await asyncio.sleep(60)
            raise AssertionError

    hanging = Hanging()
    limits = RateLimits(hanging)
    started = time.monotonic()
    for _ in range(100):
        await limits.take("a", TEN_AT_ONCE)
    seconds = time.monotonic() - started
    assert seconds < 5
    assert hanging.asked <= 1 + int(seconds)


def test_a_rate_of_zero_is_no_limit_and_a_burst_has_a_default() -> None:
    assert rate_of(0, 5) is None
    assert rate_of(600, 0) == Rate(600, 100)
    assert rate_of(3, 0) == Rate(3, 1)
    assert rate_of(600, 7) == Rate(600, 7)


@pytest.mark.parametrize(
    ("host", "caller"),
    [
        ("10.0.0.1", "address:10.0.0.1"),
        ("::ffff:10.0.0.1", "address:10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("fe80::1%eth0", "address:fe80::/64"),
        ("unix", "address:unix"),
        (None, "address:None"),
    ],
)
def test_a_caller_without_a_key_is_an_address_or_a_network_of_one_customer(host: str | None, caller: str) -> None:
    assert caller_of_address(host) == caller
