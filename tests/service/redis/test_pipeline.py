"""Commands that leave together, against a real Redis: each caller gets the answer of their own command."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import ResponseError

from service.redis.calls import connect
from service.redis.pipeline import Pipeline
from tests.processes.redis_processes import RedisProcess

# Long enough that a batch of a later turn of the event loop needs a connection of its own.
_SLOW = ("EVAL", "local x = 0; for i = 1, 2000000 do x = x + 1 end; return x", 0)


@asynccontextmanager
async def _opened(server: RedisProcess) -> AsyncIterator[Pipeline]:
    client = connect(server.url, cluster=False, timeout_seconds=10)
    pipeline = Pipeline(client, timeout_seconds=10)  # type: ignore[arg-type]
    try:
        yield pipeline
    finally:
        await pipeline.aclose()
        await client.aclose()


async def test_the_commands_of_one_turn_share_a_connection_and_are_answered_in_order(own_redis: RedisProcess) -> None:
    async with _opened(own_redis) as pipeline:
        answers = await asyncio.gather(*(pipeline.send(("ECHO", str(number))) for number in range(50)))
        with own_redis.client() as admin:
            num_connections = len(admin.client_list()) - 1
    assert answers == [str(number).encode() for number in range(50)]
    assert num_connections == 1


async def test_an_error_answer_reaches_only_whoever_asked(own_redis: RedisProcess) -> None:
    async with _opened(own_redis) as pipeline:
        first, wrong, last = await asyncio.gather(
            pipeline.send(("ECHO", "a")),
            pipeline.send(("NO_SUCH_COMMAND",)),
            pipeline.send(("ECHO", "b")),
            return_exceptions=True,
        )
    assert (first, last) == (b"a", b"b")
    assert isinstance(wrong, ResponseError)


async def test_a_value_that_cannot_be_sent_fails_alone(own_redis: RedisProcess) -> None:
    async with _opened(own_redis) as pipeline:
        good = pipeline.send(("ECHO", "a"))
        with pytest.raises(UnicodeEncodeError):
            pipeline.send(("ECHO", "\ud800"))
        assert await good == b"a"


async def test_connections_that_the_server_has_closed_fail_nobody(own_redis: RedisProcess) -> None:
    """As after a restart or a failover: more idle connections than a command is tried times."""
    async with _opened(own_redis) as pipeline:
        slow = []
        for _ in range(8):
            slow.append(pipeline.send(_SLOW))
            await asyncio.sleep(0.001)
        await asyncio.gather(*slow)
        with own_redis.client() as admin:
            num_closed = admin.client_kill_filter(_type="normal", skipme=True)
        assert int(num_closed) > 3
        await asyncio.sleep(0.1)
        assert await pipeline.send(("ECHO", "a")) == b"a"


async def test_closing_ends_every_wait(own_redis: RedisProcess) -> None:
    async with _opened(own_redis) as pipeline:
        under_way = pipeline.send(_SLOW)
        await asyncio.sleep(0)  # its task exists, and has not begun
        waiting = pipeline.send(("ECHO", "a"))
        await pipeline.aclose()
        answers = await asyncio.wait_for(asyncio.gather(under_way, waiting, return_exceptions=True), timeout=5)
    assert [type(answer) for answer in answers] == [ConnectionAbortedError] * 2
