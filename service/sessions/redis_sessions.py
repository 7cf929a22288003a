"""Histories in Redis or Redis Cluster, written by one Lua script.

The script runs by its hash (EVALSHA); a server that does not know it (restarted, failed over, or a cluster
node that never saw it) is given the source in the same call. User ids are base64url in keys, so no id can
leave its ``{tag}``.
"""

import asyncio
import base64
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoScriptError, RedisError

from service.errors import HistoryUnavailable
from service.sessions.history_store import AppendOutcome, ErasedStore, Event, StoredHistory

LOGGER = logging.getLogger(__name__)

_ARRIVAL_DIGITS = 16
# Below the connection limit of either client, which refuses instead of waiting.
_CALLS_AT_ONCE = 64
_RETRIES = 2


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """What is kept of one user.

    Attributes:
        max_events: Newest interactions that stay, and less than a tenth more: the oldest ones are dropped together.
        max_remembered: Newest event ids (and batch tokens) that are still recognised as duplicates.
        ttl_seconds: Both are forgotten this long after the last event.
    """

    max_events: int = 500
    max_remembered: int = 2_000
    ttl_seconds: int = 90 * 86_400


def connect(url: str, *, cluster: bool, timeout_seconds: float) -> "Redis | RedisCluster":
    """Makes a client; connects on first use, so that the service starts while Redis is down.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        cluster: Whether the url names a node of a Redis Cluster.
        timeout_seconds: For connecting and for each answer.
    """
    retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), _RETRIES)
    if cluster:
        return RedisCluster.from_url(
            url, retry=retry, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds
        )
    return Redis.from_url(
        url,
        retry=retry,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        health_check_interval=30,
    )


class RedisHistoryStore:
    """A HistoryStore in Redis.

    Args:
        client: Of a server, or of a cluster.
        limits: What is kept of one user.
        timeout_seconds: For one whole call, retries included.
    """

    def __init__(self, client: "Redis | RedisCluster", *, limits: RetentionLimits, timeout_seconds: float) -> None:
        self._client = client
        self._limits = limits
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._script = files("service.sessions").joinpath("append_events.lua").read_text(encoding="utf-8")
        self._script_sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def append(self, events: Sequence[Event]) -> AppendOutcome:
        """Adds events, one script call per user.

        Users are independent: if Redis fails half-way the whole batch is refused, and sending it again is
        safe, because what did arrive is recognised by its event ids.

        Raises:
            HistoryUnavailable: Redis did not take all of them.
        """
        token = secrets.token_hex(8)
        by_user: dict[str, list[Event]] = {}
        for event in events:
            by_user.setdefault(event.user_id, []).append(event)
        async with self._calls_redis("append events"):
            counts = await asyncio.gather(*(self._append_user(user, some, token) for user, some in by_user.items()))
        accepted = sum(counts)
        return AppendOutcome(accepted=accepted, duplicates=len(events) - accepted, event_token=token)

    async def _append_user(self, user_id: str, events: Sequence[Event], token: str) -> int:
        limits = self._limits
        keys = (_history_key(user_id), _memory_key(user_id))
        triples = chain.from_iterable((event.event_id, event.timestamp, _payload(event)) for event in events)
        arguments: tuple[Any, ...] = (
            *keys,
            limits.max_events,
            limits.max_remembered,
            limits.ttl_seconds,
            token,
            *triples,
        )
        async with self._slots:
            try:
                return int(await self._client.evalsha(self._script_sha, len(keys), *arguments))
            except NoScriptError:
                return int(await self._client.eval(self._script, len(keys), *arguments))

    async def read(self, user_id: str, *, event_token: str | None = None) -> StoredHistory:
        """Reads one user's history, oldest first.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        async with self._calls_redis("read a history"), self._slots:
            # The token first: a batch that is known then is certainly in the history read after it.
            includes_token = None
            if event_token is not None:
                score = await self._client.zscore(_memory_key(user_id), f"t{event_token}")
                includes_token = score is not None
            rows: Any = await self._client.zrange(_history_key(user_id), 0, -1, withscores=True)
        return StoredHistory(
            events=tuple(_event(user_id, member, int(score)) for member, score in rows),
            includes_token=includes_token,
        )

    async def erase(self, user_id: str) -> Sequence[ErasedStore]:
        """Deletes a user's history and the memory of their event ids.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        erased = []
        async with self._calls_redis("erase a user"), self._slots:
            for store, key in (("history", _history_key(user_id)), ("event_ids", _memory_key(user_id))):
                records = int(await self._client.zcard(key))
                await self._client.delete(key)
                erased.append(ErasedStore(store=f"redis:{store}", records=records))
        return erased

    async def ping(self) -> None:
        """Returns when Redis answers.

        Raises:
            HistoryUnavailable: It does not.
        """
        async with self._calls_redis("ping"), self._slots:
            await self._client.ping()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def _calls_redis(self, purpose: str) -> AsyncIterator[None]:
        """Bounds a call in time and maps what the client raises to our own error."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if isinstance(self._client, RedisCluster):
                    # Concurrent first calls of a client that has not read the topology go to random nodes, and the
                    # storm of redirections makes it drop its connections (redis-py 8.1). Free once it has.
                    await self._client.initialize()
                yield
        # AttributeError: the cluster client re-reads the topology after an error and may take a connection's writer
        # away from a call that is still connecting (redis-py 8.1).
        except (RedisError, OSError, TimeoutError, AttributeError) as error:
            LOGGER.warning("Redis failed to %s: %s: %s", purpose, type(error).__name__, error)
            raise HistoryUnavailable(f"the history store failed to {purpose}: {type(error).__name__}") from error


def _history_key(user_id: str) -> str:
    return f"hatstand:{{{_tag(user_id)}}}:history"


def _memory_key(user_id: str) -> str:
    return f"hatstand:{{{_tag(user_id)}}}:event_ids"


def _tag(user_id: str) -> str:
    return base64.urlsafe_b64encode(user_id.encode()).decode().rstrip("=")


def _payload(event: Event) -> bytes:
    row = [event.item_id, event.type, event.event_id, event.recommendation_id, dict(event.properties)]
    while row[-1] in (None, {}):
        row.pop()
    return orjson.dumps(row)


def _event(user_id: str, member: bytes, timestamp: int) -> Event:
    item_id, kind, event_id, *rest = orjson.loads(member[_ARRIVAL_DIGITS:])
    recommendation_id = rest[0] if rest else None
    properties = rest[1] if len(rest) > 1 else {}
    return Event(
        event_id=event_id,
        user_id=user_id,
        item_id=item_id,
        timestamp=timestamp,
        type=kind,
        recommendation_id=recommendation_id,
        properties=properties,
    )
