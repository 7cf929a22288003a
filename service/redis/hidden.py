"""Hidden items in Redis: durable, and in force on every replica as soon as hiding one was answered.

Every request asks for the version of the set (one GET), and reads what has changed only if it has. Requests that come
together share one question, if it is asked after all of them have come; so a hidden item cannot be returned to anybody
who asks after it was hidden.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from secrets import token_hex

from service.errors import HistoryUnavailable, TooManyHidden
from service.people.hidden_set import MAX_HIDDEN, HiddenItem, HiddenItems
from service.redis.calls import RedisCalls, Script

# Changes that a replica may have missed without having to read everything.
_MAX_SHOWN = 1_000
# A request waits no longer than this for the set; then the last known one is used.
_PATIENCE_SECONDS = 0.25

_KEYS = tuple(f"hatstand:{{hidden}}:{name}" for name in ("version", "items", "shown", "floor"))


class RedisHiddenItems:
    """Keeps the set of hidden items.

    Args:
        calls: To Redis.
        patience_seconds: How long a request may wait for it.
    """

    def __init__(self, calls: RedisCalls, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._calls = calls
        self._patience_seconds = patience_seconds
        self._known = HiddenItems(is_known=False)
        # What Redis said, and as of which version; ``_known`` may be ahead of it by what was hidden here.
        self._as_read: frozenset[str] = frozenset()
        self._version = ""
        self._is_ahead = False
        # Hidden here since the question that is being answered was asked: its answer may lack them.
        self._hidden_meanwhile: set[str] = set()
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._since_script = Script("hidden_since")
        self._change_script = Script("change_hidden")

    @property
    def last_known(self) -> HiddenItems:
        """As of the last time that it was read."""
        return self._known

    async def current(self, *, within: float) -> HiddenItems:
        """The set as of now or later; as last known where Redis does not answer in time. Never raises.

        Args:
            within: Seconds that there are to wait.
        """
        with contextlib.suppress(HistoryUnavailable, TimeoutError):
            async with asyncio.timeout(min(within, self._patience_seconds)):
                await self._read_anew()
        return self._known

    async def hide(self, item_id: str) -> HiddenItem:
        """Hides an item; when it returns, no request that comes later returns the item.

        Raises:
            HistoryUnavailable: Redis did not answer; the item may be hidden or not.
            TooManyHidden: There are ``MAX_HIDDEN`` already.
        """
        return await self._change("hide", item_id)

    async def show(self, item_id: str) -> HiddenItem:
        """Shows an item again; one that is not hidden stays as it is.

        Raises:
            HistoryUnavailable: Redis did not answer; the item may be hidden or not.
        """
        return await self._change("show", item_id)

    async def newest(self, *, offset: int, limit: int) -> tuple[int, Sequence[HiddenItem]]:
        """How many items are hidden, and some of them, the last hidden first.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        async with self._calls.calling("list hidden items"):
            number = int(await self._calls.command("ZCARD", _KEYS[1]))
            rows = await self._calls.command("ZREVRANGE", _KEYS[1], offset, offset + limit - 1, "WITHSCORES")
        members, since = rows[::2], rows[1::2]
        return number, [HiddenItem(one.decode(), float(at) / 1_000) for one, at in zip(members, since, strict=True)]

    async def aclose(self) -> None:
        """Ends what is being read."""
        tasks = [task for task in (self._running, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _change(self, verb: str, item_id: str) -> HiddenItem:
        now = int(time.time() * 1_000)
        async with self._calls.calling(f"{verb} an item"):
            changed, since = await self._calls.run(
                self._change_script, _KEYS, now, token_hex(4), verb, MAX_HIDDEN, _MAX_SHOWN, item_id
            )
        if changed < 0:
            raise TooManyHidden(f"{MAX_HIDDEN} items are hidden already; show some of them first")
        if verb == "hide":
            # At once: a request that has no time to ask Redis, or asks in vain, must not return it either.
            self._hidden_meanwhile.add(item_id)
            self._known = HiddenItems(self._known.item_ids | {item_id}, is_known=self._known.is_known)
            self._is_ahead = True
        else:
            self._hidden_meanwhile.discard(item_id)
        return HiddenItem(item_id, int(since) / 1_000 or None)

    async def _read_anew(self) -> None:
        """Waits for a question to Redis that is asked after this was called."""
        if self._next is None:
            self._next = asyncio.create_task(self._read_after(self._running), name="hatstand-hidden")
            self._next.add_done_callback(_retrieved)
        await asyncio.shield(self._next)

    async def _read_after(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        self._running, self._next = self._next, None
        await self._read()

    async def _read(self) -> None:
        self._hidden_meanwhile.clear()
        async with self._calls.calling("read hidden items", timeout_seconds=self._patience_seconds):
            version = (await self._calls.command("GET", _KEYS[0]) or b"").decode()
            if not self._known.is_known or version != self._version:
                await self._read_changes()
            elif not self._is_ahead:
                return
        self._is_ahead = bool(self._hidden_meanwhile)
        self._known = HiddenItems(self._as_read | self._hidden_meanwhile)

    async def _read_changes(self) -> None:
        epoch, _, number = self._version.partition(":")
        current, is_all, hidden, shown = await self._calls.run(self._since_script, _KEYS, epoch, number or "0")
        before = frozenset() if is_all else self._as_read
        self._as_read = (before - {one.decode() for one in shown}) | {one.decode() for one in hidden}
        self._version = current.decode()


def _retrieved(task: "asyncio.Task[None]") -> None:
    # Nobody may be waiting any more; what went wrong was logged where it happened.
    if not task.cancelled():
        task.exception()
