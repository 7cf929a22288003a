"""The commands of one turn of the event loop leave together: one round trip to Redis, whoever asked for them.

A request needs its history and the version of the hidden items; requests that come together need the same of others.
redis-py would take a connection, a timeout and a handful of coroutines for each command. Here all commands that are
sent before the event loop goes round share one connection and one timeout.
"""

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError, ResponseError

Command = Sequence[Any]
Batch = Sequence[tuple[bytes, "asyncio.Future[Any]"]]

# Batches under way at once; further commands wait and leave together.
_MAX_CONNECTIONS = 16
_RETRIES = 2


class Pipeline:
    """Sends commands to one server.

    Args:
        client: Makes the connections; nothing else of it is used.
        timeout_seconds: For one batch of commands: connecting, retries and answers.
    """

    def __init__(self, client: Redis, *, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), _RETRIES)
        self._waiting: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._is_due = False
        self._free: list[AbstractConnection] = []
        self._under_way: set[asyncio.Task[None]] = set()

    def send(self, command: Command) -> "asyncio.Future[Any]":
        """Sends one command with all others of this turn of the event loop.

        Returns:
            The answer; an error answer (``ResponseError``) is raised, as is what kept the batch from being answered
            (``RedisError``, ``OSError``, ``TimeoutError``).

        Raises:
            TypeError, UnicodeEncodeError: Redis takes no such value; the other commands of the turn go on.
        """
        # redis-py's own packing is Python, and takes a third of the time of a batch of events
        packed: bytes = pack_command(tuple(command))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((packed, answer))
        if not self._is_due and len(self._under_way) < _MAX_CONNECTIONS:
            self._is_due = True
            loop.call_soon(self._flush)
        return answer

    async def aclose(self) -> None:
        """Closes the connections; what waits or is under way fails."""
        waiting, self._waiting = self._waiting, []
        _give_up(waiting)
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._close_idle()

    def _flush(self) -> None:
        self._is_due = False
        batch, self._waiting = self._waiting, []
        if batch:
            task = asyncio.create_task(self._exchange(batch))
            self._under_way.add(task)
            task.add_done_callback(partial(self._end, batch))

    def _end(self, batch: Batch, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        if task.cancelled() or task.exception() is not None:
            # a task that is cancelled before its first step has answered nobody
            _give_up(batch)
        if self._waiting and not self._is_due:
            self._flush()

    async def _exchange(self, batch: Batch) -> None:
        """Sends a batch and hands out the answers; a batch that fails whole fails each of its commands."""
        packed = b"".join(command for command, _ in batch)
        answers: Sequence[Any]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answers = await self._retry.call_with_retry(lambda: self._ask(packed, len(batch)), self._drop_idle)
        except (RedisError, OSError, TimeoutError) as error:
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            _settle(future, answer)

    async def _ask(self, packed: bytes, number: int) -> list[Any]:
        connection = self._free.pop() if self._free else self._client.connection_pool.make_connection()
        try:
            await connection.send_packed_command(packed, check_health=False)
            answers = [await _answer(connection) for _ in range(number)]
        except BaseException:
            # half an answer must not be taken for that of the next command
            await connection.disconnect(nowait=True)
            raise
        self._free.append(connection)
        return answers

    async def _drop_idle(self, _: Exception) -> None:
        """After a failure: a server that restarted has closed the idle connections too, and a retry needs a new one."""
        await self._close_idle()

    async def _close_idle(self) -> None:
        idle, self._free = self._free, []
        for connection in idle:
            await connection.disconnect(nowait=True)


async def _answer(connection: AbstractConnection) -> Any:
    try:
        # the whole batch has one timeout
        return await connection.read_response(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
    except ResponseError as error:
        return error


def _give_up(batch: Batch) -> None:
    for _, future in batch:
        _settle(future, ConnectionAbortedError("the command was given up"))


def _settle(future: "asyncio.Future[Any]", answer: Any) -> None:
    if future.done():  # whoever asked has gone
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
