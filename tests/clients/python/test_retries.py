"""When a request is sent again, shown with a real server that refuses as often as it is told to."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from hatstand_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    Problem,
    Retries,
    TooManyRequests,
    Unavailable,
    UnexpectedAnswer,
)

VERSION = b'{"name": "hatstand", "version": "1", "models": {}, "default": null}'


@dataclass
class Server:
    """Gives its answers one after the other, the last one for ever; None is a closed connection."""

    answers: list[tuple[int, dict[str, str], bytes] | None]
    url: str = ""
    arrivals: list[float] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serving(*answers: tuple[int, dict[str, str], bytes] | None) -> Iterator[Server]:
    server = Server(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.arrivals.append(time.monotonic())
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            if answer is None:
                self.close_connection = True
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


OK = (200, {}, VERSION)


@pytest.mark.parametrize("refusal", [(429, {}, b""), (503, {}, b""), (502, {}, b"<html>"), None])
def test_what_passes_is_tried_again_under_the_same_request_id(
    refusal: tuple[int, dict[str, str], bytes] | None,
) -> None:
    with serving(refusal, refusal, OK) as server, Client(server.url) as client:
        assert client.version().version == "1"
    assert len(server.arrivals) == 3
    assert len({headers["x-request-id"] for headers in server.headers}) == 1


async def test_the_async_client_tries_again_too() -> None:
    with serving((503, {"retry-after": "1"}, b""), None, OK) as server:
        async with AsyncClient(server.url, retries=Retries(max_attempts=3)) as client:
            assert (await client.version()).version == "1"
    assert server.arrivals[1] - server.arrivals[0] >= 1


def test_retry_after_is_respected() -> None:
    with serving((429, {"retry-after": "2"}, b""), OK) as server, Client(server.url) as client:
        client.version()
    assert server.arrivals[1] - server.arrivals[0] >= 2


def test_a_retry_after_beyond_the_time_that_there_is_ends_the_call_at_once() -> None:
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for header in ("3600", in_an_hour):
        with serving((503, {"retry-after": header}, b"")) as server, Client(server.url) as client:
            begun = time.monotonic()
            with pytest.raises(Unavailable) as refused:
                client.version()
        assert time.monotonic() - begun < 10
        assert refused.value.retry_after_seconds == pytest.approx(3600, abs=30)
        assert len(server.arrivals) == 1


def test_attempts_are_counted() -> None:
    with (
        serving((429, {}, b"")) as server,
        Client(server.url, retries=Retries(max_attempts=3)) as client,
        pytest.raises(TooManyRequests),
    ):
        client.version()
    assert len(server.arrivals) == 3


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((422, {}, b'{"code": "invalid_request", "detail": "k", "request_id": "r"}'), InvalidRequest),
        ((504, {}, b"{}"), DeadlineExceeded),
        ((500, {}, b"[1]"), Problem),
        ((302, {"location": "/elsewhere"}, b""), Problem),
        ((200, {}, b"<html>a captive portal"), UnexpectedAnswer),
        ((200, {}, b'{"name": "another service"}'), UnexpectedAnswer),
    ],
)
def test_what_does_not_pass_is_not_tried_again(answer: tuple[int, dict[str, str], bytes], kind: type) -> None:
    with serving(answer) as server, Client(server.url) as client, pytest.raises(kind):
        client.version()
    assert len(server.arrivals) == 1


def test_a_service_that_is_not_ready_says_so_without_an_error() -> None:
    with serving((503, {}, b'{"status": "not_ready", "checks": {}}')) as server, Client(server.url) as client:
        assert not client.readiness().is_ready
    with (
        serving((503, {"retry-after": "9999"}, b"<html>")) as server,
        Client(server.url) as client,
        pytest.raises(Unavailable),
    ):
        client.readiness()


def test_a_silent_service_is_not_waited_for_for_ever() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=0.2, retries=Retries(1)) as client,
        pytest.raises(ConnectionFailed, match="Timeout"),
    ):
        client.version()


def test_the_service_is_told_who_asks() -> None:
    with serving(OK) as server, Client(server.url + "/behind/a/proxy/", api_key="k", user_agent="shop/2") as client:
        client.version()
    assert server.headers[0]["authorization"] == "Bearer k"
    assert server.headers[0]["user-agent"].startswith("shop/2 hatstand-client/")
