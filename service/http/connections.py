"""Bounds on what comes before a request is one: its header lines, the time they take, the number of connections.

The server takes endless header lines at any pace from as many connections as there are file descriptors. The bounds
have to be here, as nothing else sees a request whose header lines have not ended. uvicorn has no hook for it, so its
protocol is extended, and its version is pinned exactly.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from secrets import token_hex
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.one_piece import OnePieceTransport

LOGGER = logging.getLogger(__name__)

# A chunk of one byte takes six on the wire; more than that is padding.
_FRAMING_FACTOR = 6
_FRAMING_BYTES = 64 * 1024


@dataclass(frozen=True)
class ConnectionLimits:
    """What one connection may send, and how many there may be.

    Attributes:
        max_connections: Open at once.
        max_headers: Header lines of a request.
        max_header_bytes: Of path and header lines together.
        max_body_bytes: Of a body; what is needed to frame it comes on top.
        header_timeout_seconds: From the opening, or the first byte of a further request, to the last header line.
        refused: Is told the code of each refusal.
    """

    max_connections: int
    max_headers: int
    max_header_bytes: int
    max_body_bytes: int
    header_timeout_seconds: float
    refused: Callable[[str], None]


class _Refused(Exception):
    """Ends the parsing of a request."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within limits; use a subclass made by ``bounded``."""

    limits: ConnectionLimits

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._has_headers = False
        self._num_headers = 0
        self._num_bytes = 0
        self._chunk_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: tuple[HTTPStatus, str, str] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts the connection, and gives it time to ask."""
        # uvicorn narrows the type that asyncio declares
        whole = OnePieceTransport(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", whole))
        if len(self.connections) > self.limits.max_connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections", "too many connections are open")
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes in."""
        if self.transport.is_closing():
            return
        self._chunk_bytes = len(data)
        self._num_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self.parser is None:
            return
        limits = self.limits
        if not self._has_headers and self._num_bytes > limits.max_header_bytes:
            self._refuse_headers()
        elif self._num_bytes > limits.max_header_bytes + _FRAMING_FACTOR * limits.max_body_bytes + _FRAMING_BYTES:
            # The body was refused long ago, or is nothing but framing.
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._has_headers = False
        self._num_headers = 0
        self._num_bytes = self._chunk_bytes
        self._start_timer()

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        super().on_url(url)
        if len(self.url) > self.limits.max_header_bytes:
            self._end_parsing()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line, or one after the body."""
        self._num_headers += 1
        if self._num_headers > self.limits.max_headers:
            self._end_parsing()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is one."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.max_header_bytes:
            self._end_parsing()
        self._has_headers = True
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there, too."""
        super().on_message_complete()
        self._num_bytes = 0

    def send_400_response(self, msg: str) -> None:
        """A problem document instead of uvicorn's text."""
        self._refuse(*(self._refusal or (HTTPStatus.BAD_REQUEST, "malformed_request", msg)))

    def _end_parsing(self) -> None:
        limits = self.limits
        detail = f"more than {limits.max_headers} header lines, or {limits.max_header_bytes} bytes of them"
        self._refusal = (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail)
        raise _Refused

    def _refuse_headers(self) -> None:
        detail = f"more than {self.limits.max_header_bytes} bytes of header lines"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail)

    def _refuse(self, status: HTTPStatus, code: str, detail: str) -> None:
        """Answers by hand, as there is no request to answer, and closes."""
        self._stop_timer()
        self.limits.refused(code)
        request_id = token_hex(16)
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "detail": detail,
            "code": code,
            "request_id": request_id,
        }
        body = json.dumps(document).encode()
        head = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: application/problem+json",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "connection: close",
        ]
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            head.append("retry-after: 1")
        is_answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not is_answering:
            if self.cycle is not None:
                # What the application still has to say is of no use to anybody.
                self.cycle.disconnected = True
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.header_timeout_seconds, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            seconds = self.limits.header_timeout_seconds
            detail = f"the header lines were not there within {seconds:g} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", detail)


def bounded(limits: ConnectionLimits) -> type[BoundedProtocol]:
    """The protocol with these limits, as uvicorn wants it: a class."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})
