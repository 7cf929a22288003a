"""Tells every replica who was erased or merged away, so that none of them goes on remembering.

What a process keeps in memory of somebody is its own. A short Redis Stream of owners' hashes (never their ids) is
what all replicas read, every second. One that may have missed something, because the stream was cut or is another
one, forgets everybody: what is kept in memory only saves work.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from model_store.people.owner import Owner
from service.engine.tasks import end_task
from service.errors import HistoryUnavailable, NotReady
from service.http.random_ids import random_hex
from service.redis.calls import RedisCalls

LOGGER = logging.getLogger(__name__)

_KEY = "hatstand:{erased}:owners"
_OWNER, _TELLER = b"x", b"b"
_MAX_ENTRIES = 10_000
_EVERY_SECONDS = 1.0
_PAUSE_AFTER_FAILURE = 5
# Before the first entry there can be.
_BEGINNING = b"0-0"


class Erasures:
    """The news of who was erased.

    Args:
        calls: To Redis.
        forget: Is given the hashes of owners whom this process must forget.
        forget_all: Is called where it is not known whom.
        every_seconds: Between two looks.
    """

    def __init__(
        self,
        calls: RedisCalls,
        *,
        forget: Callable[[Sequence[str]], Awaitable[None]],
        forget_all: Callable[[], Awaitable[None]],
        every_seconds: float = _EVERY_SECONDS,
    ) -> None:
        self._calls = calls
        self._forget = forget
        self._forget_all = forget_all
        self._every_seconds = every_seconds
        # its own news are none: it forgot before it told, and may have been told more of that user since
        self._name = random_hex(8)
        self._last: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to look. Call it before anything is kept, so that nothing has to be forgotten."""
        with contextlib.suppress(HistoryUnavailable):  # then the first look that succeeds forgets everybody
            async with self._calls.calling("read erasures"), self._calls.slot() as client:
                self._last = _position(await client.xrevrange(_KEY, count=1))
        self._task = asyncio.create_task(self._run(), name="hatstand-erasures")

    async def aclose(self) -> None:
        """Stops looking."""
        await end_task(self._task)

    async def tell(self, owner: Owner) -> None:
        """Has every replica forget somebody, within about a second.

        Raises:
            HistoryUnavailable: Redis did not answer. Telling again is safe.
        """
        async with self._calls.calling("tell of an erasure"), self._calls.slot() as client:
            told = {_OWNER: owner.hash, _TELLER: self._name}
            await client.xadd(_KEY, told, maxlen=_MAX_ENTRIES, approximate=True)

    async def look(self) -> None:
        """Reads what is new, and forgets.

        Raises:
            HistoryUnavailable: Redis did not answer.
            NotReady: The service is ending.
        """
        async with self._calls.calling("read erasures"), self._calls.slot() as client:
            entries = await client.xrange(_KEY, min=self._last or b"+")
            is_known = self._last is not None and (
                self._last == _BEGINNING or (bool(entries) and entries[0][0] == self._last)
            )
            if not is_known:
                newest = await client.xrevrange(_KEY, count=1)
        if not is_known:
            await self._forget_all()
            self._last = _position(newest)
            return
        new = [(position, fields) for position, fields in entries if position != self._last]
        if new:
            others = [fields for _, fields in new if fields[_TELLER].decode() != self._name]
            if others:
                await self._forget([fields[_OWNER].decode() for fields in others])
            self._last = new[-1][0]

    async def _run(self) -> None:
        while True:
            pause = self._every_seconds
            try:
                await self.look()
            except (HistoryUnavailable, NotReady):
                # logged where it happened, so not every second; the next look reads from where this one began
                pause *= _PAUSE_AFTER_FAILURE
            except Exception:
                # A task boundary: whatever happened, the next look comes.
                LOGGER.exception("reading erasures failed")
            await asyncio.sleep(pause)


def _position(newest: Sequence[tuple[bytes, Any]]) -> bytes:
    """Of the newest entry, as ``XREVRANGE`` gives it."""
    return newest[0][0] if newest else _BEGINNING
