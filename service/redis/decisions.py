"""Decision records in Redis: kept for a while, within a bound on their bytes, and erased with their user.

A record lives in the shard that its recommendation id names, which is its user's: so it is found by the id alone, and
one script keeps it, or does not because the user was erased meanwhile.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from model_store.people.owner import NUM_SHARDS
from service.decisions.store import MAX_RECORD_BYTES, DecisionRecord, NewestDecisions, shard_of
from service.redis.calls import RedisCalls, Script
from service.redis.keys import decision_keys, erased_key, owner_key

# The newest records of one user or session; so many ids are looked at when they are erased.
_MAX_PER_OWNER = 1_000
# Of one shard, for an operator to look at.
_MAX_NEWEST = 32


@dataclass(frozen=True, slots=True)
class DecisionLimits:
    """What is kept of all decisions.

    Attributes:
        max_bytes: Of all records together, shared evenly by the shards.
        ttl_seconds: How long each is kept.
    """

    max_bytes: int
    ttl_seconds: int

    @property
    def max_bytes_per_shard(self) -> int:
        """Of all records of a shard."""
        return self.max_bytes // NUM_SHARDS


class RedisDecisionStore:
    """Keeps and finds decision records.

    Args:
        calls: To Redis.
        limits: What is kept.
    """

    def __init__(self, calls: RedisCalls, limits: DecisionLimits) -> None:
        self._calls = calls
        self._limits = limits
        self._script = Script("record_decision")

    async def put(self, records: Sequence[DecisionRecord]) -> list[bool]:
        """Keeps records.

        Returns:
            For each whether it is kept: not if its user was erased since it was made.

        Raises:
            ValueError: An id does not name the shard of the owner, or a document is too large.
            HistoryUnavailable: Redis did not take all of them. Asking again is safe.
        """
        calls = [(_keys(record), self._arguments(record)) for record in records]
        async with self._calls.calling("keep decision records"):
            return [bool(kept) for kept in await self._calls.run_many(self._script, calls)]

    def _arguments(self, record: DecisionRecord) -> tuple[str | int | bytes, ...]:
        limits = self._limits
        if len(record.packed) > min(MAX_RECORD_BYTES, limits.max_bytes_per_shard):
            raise ValueError(f"a record of {len(record.packed)} bytes, expected at most {MAX_RECORD_BYTES}")
        return (
            record.recommendation_id,
            int(record.made_at * 1_000),
            record.packed,
            int(time.time() * 1_000),
            limits.ttl_seconds * 1_000,
            limits.max_bytes_per_shard,
            _MAX_PER_OWNER,
        )

    async def get(self, recommendation_id: str) -> bytes | None:
        """The document of a record, in one round trip; None if there is none (any more).

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        shard = shard_of(recommendation_id)
        if shard is None:
            return None
        records, by_time, _ = decision_keys(shard)
        async with self._calls.calling("read a decision record"):
            answers = await asyncio.gather(
                self._calls.send("ZSCORE", by_time, recommendation_id),
                self._calls.send("HGET", records, recommendation_id),
            )
        made, packed = answers
        is_over = made is None or float(made) / 1_000 < time.time() - self._limits.ttl_seconds
        return None if is_over else packed

    async def newest(self, moment: float) -> NewestDecisions:
        """The records made since a moment: the newest 32 of each of the 64 shards at most.

        Args:
            moment: Seconds since 1970.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        oldest = max(moment, time.time() - self._limits.ttl_seconds)
        async with self._calls.calling("read the newest decision records"):
            shards = await asyncio.gather(*(self._newest_of(shard, oldest) for shard in range(NUM_SHARDS)))
        is_cut = any(len(shard) == _MAX_NEWEST for shard in shards)
        return NewestDecisions(is_cut, [packed for shard in shards for packed in shard if packed is not None])

    async def _newest_of(self, shard: int, oldest: float) -> list[bytes | None]:
        """The newest documents of a shard; None for one that was dropped meanwhile."""
        records, by_time, _ = decision_keys(shard)
        bounds = ("+inf", str(int(oldest * 1_000)), "LIMIT", 0, _MAX_NEWEST)
        ids = await self._calls.command("ZREVRANGEBYSCORE", by_time, *bounds)
        documents: list[bytes | None] = await self._calls.command("HMGET", records, *ids) if ids else []
        return documents


def _keys(record: DecisionRecord) -> Sequence[str]:
    shard, owner = shard_of(record.recommendation_id), record.owner
    if shard is None or (owner is not None and owner.shard != shard):
        raise ValueError(f"recommendation id {record.recommendation_id!r} does not name its owner's shard")
    keys = decision_keys(shard)
    return keys if owner is None else (*keys, owner_key(owner, "decisions"), erased_key(owner))
