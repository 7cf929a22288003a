"""How this service talks to Redis or Redis Cluster: bounded in time and in number, scripts by their hash.

A script runs by its hash (EVALSHA); a server that does not know it (restarted, failed over, or a cluster node that
never saw it) is given the source in the same call. Every read goes to a master, never to a replica, so whoever was told
that a write is done finds it in the next read, from whichever process.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from model_store.errors import InvalidInput
from model_store.people.redis_url import RedisAddress, parse_redis_url
from service.errors import HistoryUnavailable
from service.redis.pipeline import Pipeline

LOGGER = logging.getLogger(__name__)

# Below the connection limit of either client, which refuses instead of waiting.
_CALLS_AT_ONCE = 64
_RETRIES = 2
# Answers of version 3 are turned back into those of version 2 one value at a time, in Python.
_PROTOCOL = 2

_FAILURES = (RedisError, OSError, TimeoutError)
# RedisClusterException is no RedisError. AttributeError: the cluster client re-reads the topology after an error and
# may take a connection's writer away from a call that is still connecting (redis-py 8.1).
_CLUSTER_FAILURES = (*_FAILURES, RedisClusterException, AttributeError)


def connect(url: str, *, cluster: bool, timeout_seconds: float) -> "Redis | RedisCluster":
    """Makes a client; connects on first use, so that the service starts while Redis is down.

    Args:
        url: As ``parse_redis_url`` has it.
        cluster: Whether the url names nodes of a Redis Cluster.
        timeout_seconds: For connecting and for each answer.

    Raises:
        InvalidInput: The url cannot be read; the message shows no part of it.
    """
    address = parse_redis_url(url, cluster=cluster)
    try:
        return _client(address, cluster=cluster, timeout_seconds=timeout_seconds)
    except ValueError as error:  # an option after the question mark; its text may hold a part of the password
        raise InvalidInput("the Redis url has an option with a wrong value after the question mark") from error


def _client(address: RedisAddress, *, cluster: bool, timeout_seconds: float) -> "Redis | RedisCluster":
    if cluster:
        return RedisCluster.from_url(
            address.url,
            startup_nodes=[ClusterNode(host, port) for host, port in address.further_nodes],
            protocol=_PROTOCOL,
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), _RETRIES),
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
        )
    return Redis.from_url(
        address.url,
        protocol=_PROTOCOL,
        # RedisCalls tries again and watches the time, of a whole batch of commands
        retry=Retry(NoBackoff(), 0),
        socket_timeout=None,
        socket_connect_timeout=timeout_seconds,
    )


class Script:
    """One Lua script.

    Args:
        name: Of its file in this package, without ``.lua``.
        source: Of a script that is kept elsewhere.
    """

    def __init__(self, name: str, source: str | None = None) -> None:
        self.source = source or files("service.redis").joinpath(f"{name}.lua").read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class RedisCalls:
    """Calls to one Redis or Redis Cluster.

    Args:
        client: Of a server, or of a cluster.
        timeout_seconds: For one whole call, retries included.
    """

    def __init__(self, client: "Redis | RedisCluster", *, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._failures = _FAILURES if isinstance(client, Redis) else _CLUSTER_FAILURES
        self._slots = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._pipeline = None if isinstance(client, RedisCluster) else Pipeline(client, timeout_seconds=timeout_seconds)

    def send(self, *parts: Any) -> "asyncio.Future[Any]":
        """Sends one command, such as ``("ZCARD", key)``, at once; the answer is awaited within ``calling``.

        Returns:
            What Redis answers, unconverted: bytes, integers, lists of them, None. Nobody has to take it.
        """
        if self._pipeline is not None:
            answer = self._pipeline.send(parts)
        else:
            answer = asyncio.ensure_future(self._ask_cluster(*parts))
        answer.add_done_callback(_retrieve)
        return answer

    async def command(self, *parts: Any) -> Any:
        """Sends one command and waits for the answer; only within ``calling``."""
        if self._pipeline is not None:
            return await self._pipeline.send(parts)
        return await self._ask_cluster(*parts)

    async def run(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Runs a script whose keys are all in one slot; only within ``calling``."""
        named = (len(keys), *keys, *arguments)
        try:
            return await self.command("EVALSHA", script.sha, *named)
        except NoScriptError:
            return await self.command("EVAL", script.source, *named)

    async def run_many(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Runs a script several times, each with (keys, arguments), together; only within ``calling``."""
        return list(await asyncio.gather(*(self.run(script, keys, *arguments) for keys, arguments in calls)))

    async def _ask_cluster(self, *parts: Any) -> Any:
        # Concurrent first calls of a client that has not read the topology go to random nodes, and the storm of
        # redirections makes it drop its connections (redis-py 8.1). Free once it has.
        await self._client.initialize()
        async with self._slots:
            return await self._client.execute_command(*parts)

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._pipeline is not None:
            await self._pipeline.aclose()
        await self._client.aclose()

    @asynccontextmanager
    async def calling(self, purpose: str, *, timeout_seconds: float | None = None) -> AsyncIterator[None]:
        """Maps what the client raises to our own error, and bounds what is done inside in time.

        Args:
            purpose: What is done, for the log and the error.
            timeout_seconds: For all of it; by default each command has the time of a call.

        Raises:
            HistoryUnavailable: Redis did not answer, in time or at all.
        """
        try:
            if timeout_seconds is None and self._pipeline is not None:
                yield
                return
            async with asyncio.timeout(timeout_seconds or self._timeout_seconds):
                yield
        except self._failures as error:
            LOGGER.warning("Redis failed to %s: %s: %s", purpose, type(error).__name__, error)
            raise HistoryUnavailable(f"the history store failed to {purpose}: {type(error).__name__}") from error


def _retrieve(answer: "asyncio.Future[Any]") -> None:
    # Whoever asked may have gone; an exception that nobody takes is no news.
    if not answer.cancelled():
        answer.exception()
