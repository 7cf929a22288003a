"""The lists that pages are cut from, in Redis, so that any replica can give the next page."""

import time

from model_store.people.owner import Owner
from service.redis.calls import RedisCalls, Script
from service.redis.keys import erased_key, owner_key, page_prefix

# The newest lists of one user or session; whoever opens more loses the oldest.
_MAX_LISTS = 16


class RedisRankedLists:
    """Keeps lists for a while.

    Args:
        calls: To Redis.
        ttl_seconds: How long each is kept.
    """

    def __init__(self, calls: RedisCalls, *, ttl_seconds: int) -> None:
        self._calls = calls
        self._ttl_seconds = ttl_seconds
        self._keep_script = Script("keep_page")

    async def keep(self, owner: Owner, recommendation_id: str, packed: bytes, *, asked_at: float) -> bool:
        """Keeps a list.

        Args:
            owner: Whose it is.
            recommendation_id: Names it.
            packed: The list.
            asked_at: When it was asked for, in seconds since 1970.

        Returns:
            False if the owner was erased since.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        prefix = page_prefix(owner)
        keys = (owner_key(owner, "pages"), f"{prefix}{recommendation_id}", erased_key(owner))
        async with self._calls.calling("keep a list for its pages"):
            kept = await self._calls.run(
                self._keep_script,
                keys,
                int(asked_at * 1_000),
                int(time.time() * 1_000),
                self._ttl_seconds,
                _MAX_LISTS,
                recommendation_id,
                packed,
                prefix,
            )
        return bool(kept)

    async def read(self, owner: Owner, recommendation_id: str) -> bytes | None:
        """A list, or None if it is not kept (any more).

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        async with self._calls.calling("read a list for its next page"):
            packed: bytes | None = await self._calls.command("GET", f"{page_prefix(owner)}{recommendation_id}")
        return packed
