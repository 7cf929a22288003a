"""Hidden items in Redis: durable, and in force on every replica as soon as hiding one was answered.

Every request asks for the version of the set (one GET, which leaves with the other commands of the request), and reads
what has changed only if the version has. The question is asked after the request has come, so no request that comes
after an item was hidden returns the item.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from secrets import token_hex
from typing import Any

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
        # Items hidden here, with the number of the hiding: answers to questions that were asked before may lack them.
        self._hidden_here: dict[str, int] = {}
        self._num_hidden_here = 0
        self._reading_changes = asyncio.Lock()
        self._since_script = Script("hidden_since")
        self._change_script = Script("change_hidden")

    @property
    def last_known(self) -> HiddenItems:
        """As of the last time that it was read."""
        return self._known

    def current(self, *, within: float) -> Coroutine[Any, Any, HiddenItems]:
        """The set as of now or later; as last known where Redis does not answer in time. Never raises.

        The question leaves at once; whoever wants the answer awaits it, or closes it.

        Args:
            within: Seconds that there are to wait, from now.
        """
        deadline = asyncio.get_running_loop().time() + min(within, self._patience_seconds)
        question = self._calls.send("GET", _KEYS[0])
        return self._answered(question, self._num_hidden_here, deadline)

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
            self._num_hidden_here += 1
            self._hidden_here[item_id] = self._num_hidden_here
            self._known = HiddenItems(self._known.item_ids | {item_id}, is_known=self._known.is_known)
        else:
            self._hidden_here.pop(item_id, None)
        return HiddenItem(item_id, int(since) / 1_000 or None)

    async def _answered(
        self, question: "asyncio.Future[bytes | None]", num_hidden_before: int, deadline: float
    ) -> HiddenItems:
        with contextlib.suppress(HistoryUnavailable, TimeoutError):
            async with self._calls.calling("read hidden items"):
                # Most often the history was awaited before, and this answer came with it.
                if question.done():
                    await self._take(question.result(), num_hidden_before, deadline)
                else:
                    async with asyncio.timeout_at(deadline):
                        version = await question
                    await self._take(version, num_hidden_before, deadline)
        return self._known

    async def _take(self, answer: bytes | None, num_hidden_before: int, deadline: float) -> None:
        """Takes the version of the set, and reads what has changed if the version is another one."""
        version = (answer or b"").decode()
        if self._known.is_known and version == self._version:
            self._forget_hidden_here(num_hidden_before)
            return
        async with asyncio.timeout_at(deadline), self._reading_changes:
            if not self._known.is_known or version != self._version:
                await self._read_changes()

    async def _read_changes(self) -> None:
        num_hidden_before = self._num_hidden_here
        epoch, _, number = self._version.partition(":")
        current, is_all, hidden, shown = await self._calls.run(self._since_script, _KEYS, epoch, number or "0")
        before = frozenset() if is_all else self._as_read
        self._as_read = (before - {one.decode() for one in shown}) | {one.decode() for one in hidden}
        self._version = current.decode()
        self._forget_hidden_here(num_hidden_before)
        self._known = HiddenItems(self._as_read | self._hidden_here.keys())

    def _forget_hidden_here(self, number: int) -> None:
        """Forgets the first hidings of this process: what was read was asked for after them, and has them."""
        old = [item_id for item_id, hiding in self._hidden_here.items() if hiding <= number]
        if not old:
            return
        for item_id in old:
            del self._hidden_here[item_id]
        self._known = HiddenItems(self._as_read | self._hidden_here.keys(), is_known=self._known.is_known)
