"""Connects the batch jobs to Redis or Redis Cluster."""

from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisError
from redis.retry import Retry

from model_store.errors import InvalidInput

_RETRIES = 5
_SCHEMES = ("redis://", "rediss://", "unix://")


def connect(url: str, *, cluster: bool = False, timeout_seconds: float = 10.0) -> Any:
    """Makes a client that has reached its server.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; or the ``redis.url`` file of an embedded Redis that runs.
        cluster: Whether the url names a node of a Redis Cluster.
        timeout_seconds: For connecting and for each answer.

    Raises:
        InvalidInput: The url is none, or nobody answers. The message shows no part of the url.
    """
    if "://" not in url and Path(url).is_file():
        url = Path(url).read_text().strip()
    if not url.startswith(_SCHEMES):
        raise InvalidInput(f"--redis-url begins with none of {', '.join(_SCHEMES)}: expected the url of a Redis")
    options: dict[str, Any] = {
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), _RETRIES),
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
    }
    try:
        client: Any = RedisCluster.from_url(url, **options) if cluster else Redis.from_url(url, **options)
    except ValueError as error:
        # its text may hold a part of the password
        raise InvalidInput(
            "--redis-url cannot be read: percent-encode the characters / @ # : % ? [ of the password"
        ) from error
    except (RedisError, OSError) as error:
        raise InvalidInput(f"Redis at --redis-url does not answer: {one_line(error)}") from error
    try:
        client.ping()
    except (RedisError, OSError) as error:
        client.close()
        raise InvalidInput(f"Redis at --redis-url does not answer: {one_line(error)}") from error
    return client


def one_line(error: BaseException) -> str:
    """What an error says, without line ends."""
    return " ".join(str(error).split()) or type(error).__name__
