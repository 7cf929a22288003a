"""The sockets that the service listens on, bound before anything is loaded: a taken port is told at once."""

import errno
import socket

from model_store.errors import InvalidInput

_BACKLOG = 2_048


def bind(host: str, port: int) -> list[socket.socket]:
    """Binds every address of a host; nobody can connect before ``listen``.

    Args:
        host: A name or an address; empty = all addresses.
        port: 0 = one that the system chooses, the same for every address.

    Raises:
        InvalidInput: The host has no address here, or somebody else has the port.
    """
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], port or listeners[0].getsockname()[1], *address[2:]))
            listener.setblocking(False)
    except OSError as error:
        close(listeners)
        raise _refused(host, port, error) from error
    return listeners


def listen(listeners: list[socket.socket]) -> None:
    """Lets callers connect.

    Raises:
        InvalidInput: Somebody else, who had bound the port as well, was faster.
    """
    for listener in listeners:
        try:
            listener.listen(_BACKLOG)
        except OSError as error:
            host, port = listener.getsockname()[:2]
            raise _refused(host, port, error) from error


def close(listeners: list[socket.socket]) -> None:
    """Takes no more connections."""
    for listener in listeners:
        listener.close()


def url_of(listeners: list[socket.socket], host: str) -> str:
    """Where a caller on this machine finds the service."""
    name = "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host
    port = listeners[0].getsockname()[1]
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))  # type: ignore[arg-type]


def _refused(host: str, port: int, error: OSError) -> InvalidInput:
    if error.errno == errno.EADDRINUSE:
        return InvalidInput(
            f"port {port} of {host or 'this machine'} is taken: stop what listens there, or set HATSTAND_PORT"
        )
    return InvalidInput(f"HATSTAND_HOST {host!r}, HATSTAND_PORT {port}: {error.strerror or error}")
