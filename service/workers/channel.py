"""Questions and answers between the parent and one worker, in both directions: one JSON object per line."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import orjson

from model_store.errors import HatstandError
from service.tasks import end_task

# The longest line is a page of metrics.
_MAX_LINE_BYTES = 1 << 28

Answering = Callable[[str, Any], Awaitable[Any]]


class PeerFailed(HatstandError):
    """The other side is gone, does not answer in time, or failed on the question."""


class Channel:
    """One end of a pair of connected sockets.

    Args:
        connection: A connected stream socket; the channel owns it from now on.
        answer: Answers a question of the other side: its name, and JSON that comes with it.
    """

    def __init__(self, connection: socket.socket, answer: Answering) -> None:
        self._connection = connection
        self._answer = answer
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begins to read; call it in the event loop."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection, limit=_MAX_LINE_BYTES)
        self._reading = asyncio.create_task(self._read(reader), name="hatstand-channel")

    async def closed(self) -> None:
        """Returns when the other side is gone."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def aclose(self) -> None:
        """Stops reading and answering."""
        await end_task(self._reading)
        for task in list(self._answering):
            await end_task(task)
        if self._writer is not None:
            self._writer.close()

    async def ask(self, name: str, body: Any = None, *, timeout_seconds: float) -> Any:
        """Asks the other side.

        Args:
            name: Of the question.
            body: JSON that goes with it.
            timeout_seconds: How long to wait for the answer.

        Raises:
            PeerFailed: There is no answer.
        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"number": number, "question": name, "body": body})
            async with asyncio.timeout(timeout_seconds):
                return await answer
        except TimeoutError as error:
            raise PeerFailed(f"no answer to {name!r} within {timeout_seconds:g} s") from error
        finally:
            self._waiting.pop(number, None)

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is None or self._writer.is_closing() or self._reading is None or self._reading.done():
            raise PeerFailed("the other side is gone")
        self._writer.write(orjson.dumps(message) + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(OSError):
                while line := await reader.readline():
                    self._take(orjson.loads(line))
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(PeerFailed("the other side is gone"))

    def _take(self, message: dict[str, Any]) -> None:
        if "question" in message:
            task = asyncio.create_task(self._reply(message), name="hatstand-answer")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        answer = self._waiting.get(message["number"])
        if answer is None or answer.done():
            return
        if "problem" in message:
            answer.set_exception(PeerFailed(message["problem"]))
        else:
            answer.set_result(message["answer"])

    async def _reply(self, message: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"number": message["number"]}
        try:
            reply["answer"] = await self._answer(message["question"], message["body"])
        except Exception as error:
            # The boundary of a process: whoever asked must be told, whatever it was.
            reply["problem"] = str(error) if isinstance(error, HatstandError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(PeerFailed):
            self._send(reply)
