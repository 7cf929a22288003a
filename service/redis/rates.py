"""Rate limits that all replicas share: one Lua script in the Redis that they share anyway.

The library ``limits`` was compared (5.8, its Redis storage): a hit takes as long, but what is left has to be asked for
in a second and third round trip (500 against 400 microseconds for both), and there is no burst beside a rate.
"""

import hashlib

from service.http.rate_limits import Rate, Turn
from service.redis.calls import RedisCalls, Script

_MICROSECONDS = 1_000_000


class RedisTurns:
    """Counts requests in Redis.

    Args:
        calls: To Redis; every request waits for them.
    """

    def __init__(self, calls: RedisCalls) -> None:
        self._calls = calls
        self._script = Script("take_turn")

    async def take(self, who: str, rate: Rate) -> Turn:
        """Asks for a turn.

        Args:
            who: Whose; only a hash of it is stored, for as long as the bucket is not full.
            rate: How often.

        Raises:
            HistoryUnavailable: Redis did not answer in time.
        """
        digest = hashlib.sha256(who.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        interval = max(round(_MICROSECONDS / rate.per_second), 1)
        async with self._calls.calling("count a request"):
            answer = await self._calls.run(self._script, [f"hatstand:rate:{digest}"], interval, rate.burst)
        may_pass, left, wait, until_full = (int(part) for part in answer)
        return Turn(bool(may_pass), left, wait / _MICROSECONDS, until_full / _MICROSECONDS)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._calls.aclose()
