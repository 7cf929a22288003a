"""The newest part of the event log, and users who have a history: for an operator to look at, never for a request."""

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model_store.people.event_log import CONSOLE_ORIGIN, LoggedEvent, read_entry, stream_key
from model_store.people.owner import NUM_SHARDS, Owner
from service.redis.calls import RedisCalls
from service.redis.keys import owner_key

_PER_SHARD = 160
_SCANNED_AT_ONCE = 1_000
_MAX_SCANS = 8
# A visitor with fewer events has little to show.
_FEW_EVENTS = 3
_HISTORY_KEY = re.compile(rb"^hatstand:\{[^}]+\}:user:([A-Za-z0-9_-]+):history$")


@dataclass(frozen=True, slots=True)
class RecentLog:
    """What the log has of a time.

    Attributes:
        since: Seconds since 1970: from here on, all events that were not trimmed are there.
        is_cut: Whether that is later than what was asked for, as there were too many.
        events: (when it came, seconds since 1970; what it says), the oldest first.
    """

    since: float
    is_cut: bool
    events: Sequence[tuple[float, LoggedEvent]]


class RecentEvents:
    """Reads what came in lately.

    Args:
        calls: To Redis.
        can_scan: Whether keys can be looked through: in a cluster they cannot, as each node has its own.
    """

    def __init__(self, calls: RedisCalls, *, can_scan: bool) -> None:
        self._calls = calls
        self._can_scan = can_scan

    async def since(self, moment: float) -> RecentLog:
        """The events that came since a moment, the newest ``64 * 160`` at most.

        Args:
            moment: Seconds since 1970.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        oldest = str(max(int(moment * 1_000), 0))
        async with self._calls.calling("read the newest events"):
            shards = await asyncio.gather(
                *(
                    self._calls.command("XREVRANGE", stream_key(shard), "+", oldest, "COUNT", _PER_SHARD)
                    for shard in range(NUM_SHARDS)
                )
            )
        # A shard that has more than it was asked for begins later than the others: from there on all is known.
        full = [_came_at(rows[-1][0]) for rows in shards if len(rows) == _PER_SHARD]
        since = max([moment, *full])
        events = [
            (came_at, entry)
            for rows in shards
            for name, fields in rows
            if (came_at := _came_at(name)) >= since
            and isinstance(entry := read_entry(dict(zip(fields[::2], fields[1::2], strict=True))), LoggedEvent)
        ]
        return RecentLog(since, bool(full), sorted(events, key=lambda it: it[0]))

    async def users(self, limit: int) -> list[tuple[str, int]]:
        """Some users with how many events are kept of each; those who came last first, the console's own left out.

        Those with fewer than 3 events come after the others.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        newest = (await self.since(time.time() - 86_400)).events
        people = (event for _, event in reversed(newest) if event.properties.get("origin") != CONSOLE_ORIGIN)
        latest = (event.owner.id for event in people if not event.owner.is_session)
        names = list(dict.fromkeys([*list(dict.fromkeys(latest))[:limit], *await self._stored(4 * limit)]))
        async with self._calls.calling("count events of users"):
            lengths = await asyncio.gather(
                *(self._calls.command("ZCARD", owner_key(Owner(name), "history")) for name in names)
            )
        known = [(name, length) for name, length in zip(names, lengths, strict=True) if length]
        return sorted(known, key=lambda it: it[1] < _FEW_EVENTS)[:limit]

    async def _stored(self, limit: int) -> list[str]:
        """Users of whom a history is stored, in no order."""
        found: list[str] = []
        cursor: Any = b"0"
        async with self._calls.calling("look for histories"):
            for _ in range(_MAX_SCANS if self._can_scan else 0):
                cursor, keys = await self._calls.command("SCAN", cursor, "COUNT", _SCANNED_AT_ONCE)
                found += [name for key in keys if (name := _user_of(key)) is not None]
                if cursor == b"0" or len(found) >= limit:
                    break
        return found[:limit]


def _came_at(name: bytes) -> float:
    return int(name.partition(b"-")[0]) / 1_000


def _user_of(key: bytes) -> str | None:
    """The user whose history a key holds; None for other keys."""
    match = _HISTORY_KEY.match(key)
    if match is None:
        return None
    coded = match[1]
    try:
        return base64.urlsafe_b64decode(coded + b"=" * (-len(coded) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
