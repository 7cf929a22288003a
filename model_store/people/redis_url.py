"""Where a Redis is, read from a url before anybody connects; no message shows a part of it, as it holds a password.

``redis://[[user]:password@]host[:port][,host[:port]…][/database][?option=value]``, ``rediss://`` for TLS, or
``unix://[…@]/path``. Several hosts are nodes of one Redis Cluster, of which any may be down at the start.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from model_store.errors import InvalidInput

SCHEMES = ("redis", "rediss", "unix")

_PORT = 6_379
_ENCODE = (
    "percent-encode the characters / @ # : % ? [ ] and blanks of the password "
    "(python3 -c 'import getpass, urllib.parse as u; print(u.quote(getpass.getpass(), safe=\"\"))')"
)
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNSPEAKABLE = re.compile(r"[\s\x00-\x1f\x7f]")


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis is.

    Attributes:
        url: Of one server, as redis-py reads it.
        further_nodes: Host and port of the other nodes of a Redis Cluster that the url names.
    """

    url: str = field(repr=False)
    further_nodes: tuple[tuple[str, int], ...] = ()


def parse_redis_url(url: str, *, cluster: bool = False) -> RedisAddress:
    """Reads a url.

    Args:
        url: As above.
        cluster: Whether the hosts are nodes of a Redis Cluster.

    Raises:
        InvalidInput: It cannot be read; the message says what was expected, and shows nothing of it.
    """
    if _UNSPEAKABLE.search(url) or _BROKEN_ESCAPE.search(url) or "#" in url:
        raise InvalidInput(f"the Redis url cannot be read: {_ENCODE}")
    try:
        parts = urlsplit(url)
    except ValueError as error:  # its text may hold a part of the password
        raise InvalidInput(f"the Redis url cannot be read: {_ENCODE}") from error
    if parts.scheme not in SCHEMES:
        raise InvalidInput("the Redis url begins with none of redis://, rediss:// and unix://")
    if "@" in parts.path or "@" in parts.query:
        raise InvalidInput(f"the Redis url cannot be read: {_ENCODE}")
    if parts.scheme == "unix":
        if not parts.path:
            raise InvalidInput("the Redis url names no socket, expected unix:///path/of/the.sock")
        return RedisAddress(url)
    login, at, hosts = parts.netloc.rpartition("@")
    nodes = [_node(host) for host in hosts.split(",")]
    if len(nodes) > 1 and not cluster:
        raise InvalidInput("the Redis url names several hosts: those of a Redis Cluster, which has to be said")
    if parts.path not in ("", "/") and not parts.path[1:].isdecimal():
        raise InvalidInput(f"the Redis url has no number of a database after the host: {_ENCODE}, if this was one")
    host, port = nodes[0]
    query = f"?{parts.query}" if parts.query else ""
    return RedisAddress(
        f"{parts.scheme}://{login}{at}{host}:{port}{parts.path}{query}",
        tuple((host.strip("[]"), port) for host, port in nodes[1:]),
    )


def _node(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(_PORT)
    if not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise InvalidInput(f"the Redis url has no host and port where they are expected: {_ENCODE}")
    return host, int(port)
