"""Histories and the event log in Redis or Redis Cluster, written by one Lua script.

Everything that is kept of a user or session lies in one hash slot (``model_store.people.event_log``), and so does
the part of the event log that their events go to. So an event is in the history *and* in the log, or in neither,
whatever is killed at whichever moment, in a cluster as on a single server.
"""

import asyncio
import hashlib
import logging
import math
import time
from array import array
from collections.abc import Iterator, Sequence
from secrets import token_hex

import numpy as np

from model_store.people.appending import ARRIVAL_DIGITS, RetentionLimits, append_call, append_script
from model_store.people.event_log import pack_event, parse_payloads, unpack_events
from model_store.people.owner import Owner
from service.errors import HistoryUnavailable
from service.people.history_store import AppendOutcome, ErasedStore, Event, MergeOutcome, StoredHistory
from service.people.interactions import NO_INTERACTIONS, Interactions
from service.redis.calls import RedisCalls, Script
from service.redis.erasing import Eraser
from service.redis.keys import log_key, owner_key

LOGGER = logging.getLogger(__name__)

_LOG_FULL = -1
_OWNERS_AT_ONCE = 16
_LOG_FULL_RETRY_SECONDS = 30
# So long after it refused events, and has taken none since, it is not whole; /readyz turns back within two seconds.
_REFUSED_SECONDS = 1.5
# Newest sessions that are remembered as merged into one user.
_MAX_MERGED_SESSIONS = 1_000
# A session that gets events all the time is not waited for.
_MERGE_ROUNDS = 8


class RedisHistoryStore:
    """A HistoryStore in Redis.

    Args:
        calls: To Redis.
        limits: What is kept.
        writes: For batches of events, so that nobody who reads waits behind them; ``calls`` by default.
    """

    def __init__(self, calls: RedisCalls, *, limits: RetentionLimits, writes: RedisCalls | None = None) -> None:
        self._calls = calls
        self._writes = writes or calls
        self._limits = limits
        self._eraser = Eraser(self._calls, is_logged=limits.max_logged > 0)
        self._refused_at = -math.inf
        self._append_script = Script("append_events", append_script())
        self._close_script = Script("close_session")

    @property
    def max_logged_per_shard(self) -> int:
        """Entries of the event log at which a shard refuses events; 0 = nothing is logged."""
        return self._limits.max_logged_per_shard

    async def append(self, events: Sequence[Event]) -> AppendOutcome:
        """Adds events to histories and to the log, one script call per owner.

        Owners are independent: if Redis fails half-way the whole batch is refused, and sending it again is
        safe, because what did arrive is recognised by its event ids.

        Raises:
            HistoryUnavailable: Redis did not take all of them, or the log is full (code ``event_log_full``).
        """
        token = token_hex(8)
        by_owner: dict[Owner, list[Event]] = {}
        for event in events:
            by_owner.setdefault(event.owner, []).append(event)
        try:
            async with self._writes.calling("append events"):
                answers: list[list[bool] | None] = []
                groups = list(by_owner.items())
                # A few owners at a time: Redis answers nobody else while it works on a pipeline.
                for start in range(0, len(groups), _OWNERS_AT_ONCE):
                    calls = (
                        self._append(owner, some, token, max_logged=self._limits.max_logged_per_shard)
                        for owner, some in groups[start : start + _OWNERS_AT_ONCE]
                    )
                    answers += await asyncio.gather(*calls)
        except HistoryUnavailable:
            self._refused_at = time.monotonic()
            raise
        self._refused_at = -math.inf
        if any(is_new is None for is_new in answers):
            raise HistoryUnavailable(
                "the event log is full: nothing that waits for export is dropped, so new events are refused until "
                "offline.export_events --trim has run",
                code="event_log_full",
                retry_after_seconds=_LOG_FULL_RETRY_SECONDS,
            )
        new = [
            event
            for some, answer in zip(by_owner.values(), answers, strict=True)
            for event, is_new in zip(some, answer or (), strict=True)
            if is_new
        ]
        return AppendOutcome(new=new, duplicates=len(events) - len(new), event_token=token)

    async def _append(self, owner: Owner, events: Sequence[Event], token: str, *, max_logged: int) -> list[bool] | None:
        """Per event whether it was new; None if the log is full."""
        stored = ((event.event_id, event.timestamp, _payload(event)) for event in events)
        keys, arguments = append_call(owner, stored, self._limits, token=token, max_logged=max_logged)
        length, *is_new = await self._writes.run(self._append_script, keys, *arguments)
        return None if length == _LOG_FULL else [bool(one) for one in is_new]

    async def read(
        self, owner: Owner, *, event_token: str | None = None, known_version: bytes | None = None
    ) -> StoredHistory:
        """Reads one history, oldest first; interactions of a version that the caller knows are not parsed again.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        includes_token = None
        async with self._calls.calling("read a history"):
            # The token first: a batch that is known then is certainly in the history read after it.
            if event_token is not None:
                score = await self._calls.command("ZSCORE", owner_key(owner, "event_ids"), f"t{event_token}")
                includes_token = score is not None
            rows = await self._rows(owner)
        version = _version(rows)
        is_unchanged = version == known_version
        interactions = NO_INTERACTIONS if is_unchanged else _interactions(rows)
        return StoredHistory(interactions, includes_token, version, is_unchanged)

    async def events(self, owner: Owner) -> Sequence[Event]:
        """All that is kept of the events of one owner, oldest first.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        async with self._calls.calling("read events"):
            return list(_events(owner, await self._rows(owner)))

    async def _rows(self, owner: Owner) -> Sequence[bytes]:
        """Members and their scores in turn, oldest first."""
        rows: Sequence[bytes] = await self._calls.command("ZRANGE", owner_key(owner, "history"), 0, -1, "WITHSCORES")
        return rows

    async def merge(self, session: Owner, user: Owner) -> MergeOutcome:
        """Moves a session's events into a user's history.

        The two may lie in different slots, so it takes several steps, each of which changes nothing when repeated: the
        user is noted to own the session (so that erasing them reaches it), the events are added to the user's history
        by their event ids, and only then taken out of the session. Killed in between, they are in both, and the next
        call goes on. They are in the log already, once, under the session; a note there says whose they are.

        Raises:
            HistoryUnavailable: Redis did not answer. Asking again is safe.
        """
        moved = duplicates = 0
        async with self._calls.calling("merge a session"):
            for _ in range(_MERGE_ROUNDS):
                rows = await self._rows(session)
                if not rows:
                    break
                await self._note_session(user, session)
                events = list(_events(session, rows))
                is_new = await self._append(user, events, token_hex(8), max_logged=0) or []
                moved += sum(is_new)
                duplicates += len(is_new) - sum(is_new)
                keys = (owner_key(session, "history"), log_key(session))
                members = rows[::2]
                if not await self._calls.run(
                    self._close_script, keys, int(self._limits.max_logged > 0), session.id, user.id, *members
                ):
                    break
        return MergeOutcome(moved, duplicates)

    async def _note_session(self, user: Owner, session: Owner) -> None:
        key = owner_key(user, "sessions")
        await self._calls.command("ZADD", key, time.time(), session.id)
        await self._calls.command("ZREMRANGEBYRANK", key, 0, -_MAX_MERGED_SESSIONS - 1)
        await self._calls.command("EXPIRE", key, self._limits.ttl_seconds)

    async def merged_sessions(self, user: Owner) -> Sequence[Owner]:
        """The newest sessions that were merged into a user.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        async with self._calls.calling("look for merged sessions"):
            return await self._eraser.sessions_of(user)

    async def erase(self, owner: Owner) -> Sequence[ErasedStore]:
        """Deletes everything kept of an owner, and of the sessions that were merged into a user.

        Raises:
            HistoryUnavailable: Redis did not answer. Asking again is safe.
        """
        return await self._eraser.erase(owner)

    async def ping(self) -> None:
        """Returns when Redis answers and did not just refuse events: when it is full it does the one without the other.

        Raises:
            HistoryUnavailable: It does not, or did.
        """
        async with self._calls.calling("ping"):
            await self._calls.command("PING")
        if time.monotonic() - self._refused_at < _REFUSED_SECONDS:
            raise HistoryUnavailable("the history store answers, but does not take events")

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._calls.aclose()
        await self._writes.aclose()


def _version(rows: Sequence[bytes]) -> bytes:
    """Of what Redis keeps, so that nothing has to be parsed for it; lengths, as members may contain anything."""
    digest = hashlib.blake2b(array("q", map(len, rows)).tobytes(), digest_size=16)
    digest.update(b"".join(rows))
    return digest.digest()


def _payload(event: Event) -> bytes:
    return pack_event(event.item_id, event.type, event.event_id, event.recommendation_id, event.properties)


def _interactions(rows: Sequence[bytes]) -> Interactions:
    payloads = parse_payloads(member[ARRIVAL_DIGITS:] for member in rows[::2])
    return Interactions(
        tuple(payload[0] for payload in payloads),
        np.array(rows[1::2], dtype=np.float64).astype(np.int64) if rows else NO_INTERACTIONS.timestamps,
        tuple(payload[1] for payload in payloads),
    )


def _events(owner: Owner, rows: Sequence[bytes]) -> Iterator[Event]:
    payloads = unpack_events(member[ARRIVAL_DIGITS:] for member in rows[::2])
    for score, (item_id, kind, event_id, recommendation_id, properties) in zip(rows[1::2], payloads, strict=True):
        yield Event(event_id, owner, item_id, int(float(score)), kind, recommendation_id, properties)
