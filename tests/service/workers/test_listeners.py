"""Sockets that are bound before anything is loaded."""

import socket

import pytest

from model_store.errors import InvalidInput
from service.workers.listeners import bind, close, listen, url_of


def test_a_free_port_is_chosen_once_for_all_addresses_of_a_host() -> None:
    listeners = bind("localhost", 0)
    try:
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listeners[0].getsockname()[:2], timeout=5)
        listen(listeners)
        for listener in listeners:
            socket.create_connection(listener.getsockname()[:2], timeout=5).close()
    finally:
        close(listeners)


def test_a_taken_port_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"port {port} of 127.0.0.1 is taken.*HATSTAND_PORT"):
            bind("127.0.0.1", port)


def test_of_two_that_start_together_one_is_told() -> None:
    first = bind("127.0.0.1", 0)
    second = bind("127.0.0.1", first[0].getsockname()[1])
    try:
        listen(first)
        with pytest.raises(InvalidInput, match="is taken"):
            listen(second)
    finally:
        close(first)
        close(second)


def test_a_host_that_is_none_is_told_in_words() -> None:
    with pytest.raises(InvalidInput, match=r"HATSTAND_HOST 'no\.such\.host\.invalid'"):
        bind("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:{}"), ("0.0.0.0", "http://127.0.0.1:{}"), ("::1", "http://[::1]:{}")],
)
def test_the_url_is_one_that_works_here(host: str, url: str) -> None:
    try:
        listeners = bind(host, 0)
    except InvalidInput:
        pytest.skip(f"this machine has no {host}")
    try:
        assert url_of(listeners, host) == url.format(listeners[0].getsockname()[1])
    finally:
        close(listeners)
