"""Questions between two processes, here between two ends in one."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from model_store.errors import InvalidInput
from service.workers.channel import Channel, PeerFailed


async def _answer(question: str, body: Any) -> Any:
    if question == "double":
        return 2 * body
    if question == "sleep":
        await asyncio.sleep(body)
        return None
    if question == "refuse":
        raise InvalidInput("not like this")
    raise ValueError(f"what is {question}?")


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[Channel, Channel]]:
    one, other = (Channel(end, _answer) for end in socket.socketpair())
    await one.open()
    await other.open()
    yield one, other
    await one.aclose()
    await other.aclose()


async def test_each_side_asks_and_answers_at_the_same_time() -> None:
    async with _pair() as ends:
        asked = [end.ask("double", number, timeout_seconds=30) for number in range(50) for end in ends]
        assert await asyncio.gather(*asked) == [2 * number for number in range(50) for _ in ends]


async def test_a_long_answer_is_whole() -> None:
    async with _pair() as (one, _):
        assert await one.ask("double", "x" * 3_000_000, timeout_seconds=30) == "x" * 6_000_000


@pytest.mark.parametrize(
    ("question", "reason"), [("refuse", "^not like this$"), ("other", "ValueError: what is other")]
)
async def test_what_goes_wrong_there_is_told_here(question: str, reason: str) -> None:
    async with _pair() as (one, _):
        with pytest.raises(PeerFailed, match=reason):
            await one.ask(question, timeout_seconds=30)
        assert await one.ask("double", 1, timeout_seconds=30) == 2


async def test_nobody_waits_longer_than_told() -> None:
    async with _pair() as (one, _):
        with pytest.raises(PeerFailed, match=r"no answer to 'sleep' within 0\.05 s"):
            await one.ask("sleep", 20, timeout_seconds=0.05)


async def test_whoever_waits_for_a_side_that_is_gone_is_told() -> None:
    async with _pair() as (one, other):
        asked = asyncio.create_task(one.ask("sleep", 20, timeout_seconds=30))
        await asyncio.sleep(0.05)
        await other.aclose()
        with pytest.raises(PeerFailed, match="gone"):
            await asked
        await asyncio.wait_for(one.closed(), 30)
        with pytest.raises(PeerFailed, match="gone"):
            await one.ask("double", 1, timeout_seconds=30)
