"""How often a caller may ask: per key, or per address for those without one.

Replicas count together in Redis. While that is away, each counts by itself, so that a limit is neither lifted nor
turned into an outage.
"""

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cachetools import LRUCache

LOGGER = logging.getLogger(__name__)

_MINUTE_SECONDS = 60
# A request waits for the shared count for so long, and after that did not work nobody asks for a while.
_SHARED_TIMEOUT_SECONDS = 0.15
_SHARED_PAUSE_SECONDS = 1.0
# Callers that are counted here at once; beyond it the one that asked longest ago is forgotten.
_MAX_CALLERS = 10_000
# An IPv6 network of this size belongs to one customer.
_IPV6_PREFIX = 64


@dataclass(frozen=True)
class Rate:
    """How often.

    Attributes:
        per_minute: On average.
        burst: At once.
    """

    per_minute: int
    burst: int

    @property
    def per_second(self) -> float:
        """On average."""
        return self.per_minute / _MINUTE_SECONDS


@dataclass(frozen=True)
class Turn:
    """What became of asking for a turn.

    Attributes:
        may_pass: Whether it is the caller's turn.
        left: How many more may come at once.
        wait_seconds: Until the next may pass; 0 if it may.
        full_seconds: Until nothing is counted any more.
    """

    may_pass: bool
    left: int
    wait_seconds: float
    full_seconds: float

    def headers(self, rate: Rate) -> Mapping[str, str]:
        """For the answer, as in the IETF's draft of RateLimit header fields."""
        return {
            "RateLimit-Policy": f'"minute";q={rate.per_minute};w={_MINUTE_SECONDS}',
            "RateLimit": f'"minute";r={self.left};t={math.ceil(self.full_seconds)}',
        }


class SharedTurns(Protocol):
    """Counts for all replicas; raises whatever it likes when it cannot."""

    async def take(self, who: str, rate: Rate) -> Turn:
        """Asks for a turn."""
        ...


class LocalTurns:
    """Counts in this process: the same rule as the shared one.

    Args:
        clock: Seconds.
        max_callers: Counted at once.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_callers: int = _MAX_CALLERS) -> None:
        self._clock = clock
        self._full_at: LRUCache[str, float] = LRUCache(max_callers)

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, who: str, rate: Rate) -> Turn:
        """Asks for a turn."""
        now, interval = self._clock(), 1 / rate.per_second
        full_at = max(self._full_at.get(who, now), now)
        room = rate.burst * interval - (full_at - now)
        # Rounding must not make the last of a burst wait for a billionth of a second.
        if room < interval * (1 - 1e-9):
            return Turn(False, 0, interval - room, full_at - now)
        full_at += interval
        self._full_at[who] = full_at
        return Turn(True, math.floor((room - interval) / interval + 1e-9), 0.0, full_at - now)


class RateLimits:
    """Counts shared if that works, else local.

    Args:
        shared: Counts for all replicas.
        clock: Seconds.
    """

    def __init__(self, shared: SharedTurns | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared = shared
        self._clock = clock
        self._local = LocalTurns(clock=clock)
        self._ask_again_at = -math.inf

    async def take(self, who: str, rate: Rate) -> Turn:
        """Asks for a turn; always answers, and within a tenth of a second.

        Args:
            who: Whose.
            rate: At least one per minute.
        """
        if self._shared is not None and self._clock() >= self._ask_again_at:
            try:
                async with asyncio.timeout(_SHARED_TIMEOUT_SECONDS):
                    return await self._shared.take(who, rate)
            except Exception as error:
                # A boundary: whatever is wrong with the shared count, requests are counted.
                self._ask_again_at = self._clock() + _SHARED_PAUSE_SECONDS
                LOGGER.warning("rate limits are counted by this replica alone: %s", type(error).__name__)
        return self._local.take(who, rate)


def rate_of(per_minute: int, burst: int) -> Rate | None:
    """A rate; None if there is no limit.

    Args:
        per_minute: 0 = no limit.
        burst: 0 = a sixth of a minute's, at least 1.
    """
    if per_minute == 0:
        return None
    return Rate(per_minute, burst or max(per_minute // 6, 1))


def caller_of_address(host: str | None) -> str:
    """What is counted as one caller: an IPv4 address, or an IPv6 network of a customer's size."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return f"address:{host}"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"address:{address.ipv4_mapped}"
        return f"address:{ipaddress.ip_network((address, _IPV6_PREFIX), strict=False)}"
    return f"address:{address}"
