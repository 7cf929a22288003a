"""Tells every replica who was erased or merged away, so that none of them goes on remembering.

What a process keeps in memory of somebody is its own. A short Redis Stream of owners' hashes (never their ids) is
what all replicas read, every second. One that may have missed something, because the stream was cut or is another
one, forgets everybody: what is kept in memory only saves work.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from secrets import token_hex

from model_store.people.owner import Owner
from service.errors import HistoryUnavailable, NotReady
from service.people.forgetting import Forgetting
from service.redis.calls import RedisCalls
from service.tasks import end_task

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
        forgetting: Has this process forget; everybody, where it is not known whom.
        every_seconds: Between two looks.
    """

    def __init__(self, calls: RedisCalls, forgetting: Forgetting, *, every_seconds: float = _EVERY_SECONDS) -> None:
        self._calls = calls
        self._forgetting = forgetting
        self._every_seconds = every_seconds
        # This process forgot before it told the others, and may have learned more of that person since: it skips
        # what it told itself.
        self._name = token_hex(8)
        self._last: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_listening(self) -> bool:
        """Whether the place in the news is known from which on this process hears of erasures."""
        return self._last is not None

    async def start(self) -> None:
        """Begins to look. Call it before anything is kept, so that nothing has to be forgotten."""
        with contextlib.suppress(HistoryUnavailable):  # then the first look that succeeds forgets everybody
            async with self._calls.calling("read erasures"):
                self._last = await self._newest()
        self._task = asyncio.create_task(self._run(), name="hatstand-erasures")

    async def aclose(self) -> None:
        """Stops looking."""
        await end_task(self._task)

    async def tell(self, owner: Owner) -> None:
        """Has every replica forget somebody, within about a second.

        Raises:
            HistoryUnavailable: Redis did not answer. Telling again is safe.
        """
        told = (_OWNER, owner.hash, _TELLER, self._name)
        async with self._calls.calling("tell of an erasure"):
            await self._calls.command("XADD", _KEY, "MAXLEN", "~", _MAX_ENTRIES, "*", *told)

    async def look(self) -> None:
        """Reads what is new, and forgets.

        Raises:
            HistoryUnavailable: Redis did not answer.
            NotReady: The service is ending.
        """
        async with self._calls.calling("read erasures"):
            entries = await self._calls.command("XRANGE", _KEY, self._last or b"+", b"+")
            is_known = self._last is not None and (
                self._last == _BEGINNING or (bool(entries) and entries[0][0] == self._last)
            )
            if not is_known:
                newest = await self._newest()
        if not is_known:
            await self._forgetting.forget_all()
            self._last = newest
            return
        new = [(position, _fields(pairs)) for position, pairs in entries if position != self._last]
        if new:
            others = [fields for _, fields in new if fields[_TELLER].decode() != self._name]
            if others:
                await self._forgetting.forget_owners([fields[_OWNER].decode() for fields in others])
            self._last = new[-1][0]

    async def _newest(self) -> bytes:
        """The position of the newest entry."""
        entries = await self._calls.command("XREVRANGE", _KEY, b"+", b"-", "COUNT", 1)
        return entries[0][0] if entries else _BEGINNING

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


def _fields(pairs: Sequence[bytes] | dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The fields of an entry: Redis sends names and values in turn, which the cluster client has put together."""
    return pairs if isinstance(pairs, dict) else dict(zip(pairs[::2], pairs[1::2], strict=True))
