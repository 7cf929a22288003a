"""Connects the batch jobs to Redis or Redis Cluster."""

from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from model_store.errors import InvalidInput
from model_store.people.redis_url import RedisAddress, parse_redis_url

# What a client raises where a server does not answer or refuses; RedisClusterException is no RedisError.
REDIS_FAILURES = (RedisError, RedisClusterException, OSError)

_RETRIES = 5


def connect(url: str, *, cluster: bool = False, timeout_seconds: float = 10.0) -> Any:
    """Makes a client that has reached its server.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; or the ``redis.url`` file of an embedded Redis that runs.
        cluster: Whether the url names nodes of a Redis Cluster.
        timeout_seconds: For connecting and for each answer.

    Raises:
        InvalidInput: The url is none, or nobody answers. The message shows no part of the url.
    """
    address = read_address(url, cluster=cluster)
    options: dict[str, Any] = {
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), _RETRIES),
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
    }
    client: Any = None
    try:
        if cluster:
            nodes = [ClusterNode(host, port) for host, port in address.further_nodes]
            client = RedisCluster.from_url(address.url, startup_nodes=nodes, **options)
        else:
            client = Redis.from_url(address.url, **options)
        client.ping()
    except ValueError as error:  # its text may hold a part of the password
        raise InvalidInput("--redis-url has an option with a wrong value after the question mark") from error
    except REDIS_FAILURES as error:
        if client is not None:
            client.close()
        raise InvalidInput(f"Redis at --redis-url does not answer: {one_line(error)}") from error
    return client


def read_address(url: str, *, cluster: bool = False) -> RedisAddress:
    """Reads ``--redis-url`` without connecting; for the arguments see ``connect``.

    Raises:
        InvalidInput: The url is none. The message shows no part of the url.
    """
    if "://" not in url and Path(url).is_file():
        url = Path(url).read_text().strip()
    try:
        return parse_redis_url(url, cluster=cluster)
    except InvalidInput as error:
        raise InvalidInput(f"--redis-url: {error}") from error


def one_line(error: BaseException) -> str:
    """What an error says, without line ends."""
    return " ".join(str(error).split()) or type(error).__name__
