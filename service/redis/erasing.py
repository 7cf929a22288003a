"""Erasing a user or session: all that Redis keeps of them, and what of the event log was not exported yet.

What an export wrote before is beyond Redis. The note that stays in the log (a hash, not the id) is exported too, and
whoever reads the exported files leaves out what it covers.
"""

import time
from collections.abc import Sequence

from model_store.people.owner import Owner
from service.people.history_store import ErasedStore
from service.redis.calls import RedisCalls, Script
from service.redis.keys import decision_keys, erased_key, log_key, owner_key, page_prefix

# Longer than a decision record may wait to be written: none of an erased user is written after.
_ERASED_SECONDS = 3_600
# So few at once that Redis does nothing else for about a millisecond.
_ENTRIES_AT_ONCE = 500
# A shard's log may be long.
_TIMEOUT_SECONDS = 30.0


class Eraser:
    """Deletes what Redis keeps of somebody.

    Args:
        calls: To Redis.
        is_logged: Whether events are logged, so that a note has to be left.
    """

    def __init__(self, calls: RedisCalls, *, is_logged: bool) -> None:
        self._calls = calls
        self._is_logged = is_logged
        self._erase_script = Script("erase_owner")
        self._forget_script = Script("forget_logged")

    async def erase(self, owner: Owner) -> Sequence[ErasedStore]:
        """Deletes everything of an owner, and of the sessions that were merged into a user.

        Raises:
            HistoryUnavailable: Redis did not answer. Asking again is safe, and needed: what was not reached is there.
        """
        counts = {"history": 0, "event_ids": 0, "event_log": 0, "decisions": 0, "pages": 0}
        async with self._calls.calling("erase a user", timeout_seconds=_TIMEOUT_SECONDS):
            sessions = [] if owner.is_session else await self.sessions_of(owner)
            # the user last: until then the list of sessions is there for another try
            for one in (*sessions, owner):
                for store, records in (await self._erase(one)).items():
                    counts[store] += records
        if not owner.is_session:
            counts["sessions"] = len(sessions)
        return [ErasedStore(store=f"redis:{store}", records=records) for store, records in counts.items()]

    async def sessions_of(self, user: Owner) -> list[Owner]:
        """The sessions that were merged into a user; only within ``calling``."""
        ids = await self._calls.command("ZRANGE", owner_key(user, "sessions"), 0, -1)
        return [Owner(one.decode(), is_session=True) for one in ids]

    async def _erase(self, owner: Owner) -> dict[str, int]:
        keys = (
            owner_key(owner, "history"),
            owner_key(owner, "event_ids"),
            owner_key(owner, "sessions"),
            owner_key(owner, "decisions"),
            *decision_keys(owner.shard),
            erased_key(owner),
            log_key(owner),
            owner_key(owner, "pages"),
        )
        now = int(time.time() * 1_000)
        *counts, note = await self._calls.run(
            self._erase_script, keys, int(self._is_logged), owner.hash, now, _ERASED_SECONDS, page_prefix(owner)
        )
        events, event_ids, decisions, pages = counts
        logged = await self._forget_logged(owner, note) if note else 0
        return {"history": events, "event_ids": event_ids, "event_log": logged, "decisions": decisions, "pages": pages}

    async def _forget_logged(self, owner: Owner, last: bytes) -> int:
        """Removes the owner's events from the log up to a position; returns how many."""
        removed, after = 0, b"-"
        while after:
            some, position = await self._calls.run(
                self._forget_script, (log_key(owner),), owner.field, owner.id, after, last, _ENTRIES_AT_ONCE
            )
            removed += some
            after = b"(" + position if position else b""
        return removed
