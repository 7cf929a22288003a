"""What happens to every request: an id, bounds on its body and its time, headers of the answer, and its measure."""

import asyncio
import logging
import re
import time
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.hosts import AllowedHosts
from service.http.json_guard import json_problem
from service.http.problems import problem
from service.logs import REQUEST_ID
from service.metrics.metrics import Metrics

LOGGER = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_NO_ROUTE = "none"
_JSON = "application/json"
_METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})
_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Asked by whoever decides whether we live, and so never turned away.
_PROBES = frozenset({"/livez", "/readyz", "/metrics", "/v1/livez", "/v1/readyz", "/v1/metrics"})
# Refused with the body still on its way: so much longer it is read, or the refusal would not be.
_LINGER_SECONDS = 2.0
_GONE = 499

_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_SECURITY_NAMES = frozenset(name for name, _ in _SECURITY_HEADERS)


@dataclass(frozen=True)
class RequestLimits:
    """What one request may be.

    Attributes:
        max_body_bytes: A larger body is refused before it is parsed, and never held whole.
        max_json_depth: So is a deeper one.
        body_timeout_seconds: The body must be there by then.
        max_in_flight: Requests being answered at once.
        origins: Sites whose pages may send requests that change something.
        hosts: Names that the service is called by.
        logs_all: Also those that went well.
    """

    max_body_bytes: int
    max_json_depth: int = 32
    body_timeout_seconds: float = 10.0
    max_in_flight: int = 512
    origins: frozenset[str] = frozenset()
    hosts: AllowedHosts = field(default_factory=AllowedHosts)
    logs_all: bool = False


@dataclass(frozen=True)
class _Refusal:
    status: int
    code: str
    detail: str
    retry_after_seconds: int | None = None
    # What was not read must not be taken for the next request.
    ends_connection: bool = False


class RequestMiddleware:
    """Names, bounds, guards and measures requests.

    Args:
        app: What answers them.
        metrics: Where times go.
        limits: What one request may be.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, limits: RequestLimits) -> None:
        self._app = app
        self._metrics = metrics
        self._limits = limits
        self._num_in_flight = 0
        metrics.http.watch_in_flight(lambda: self._num_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        token = REQUEST_ID.set(request_id)
        started = time.perf_counter()
        status = _GONE

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _completed(message["headers"], scope)
            await send(message)

        self._num_in_flight += 1
        try:
            await self._handle(scope, headers, receive, send_named)
        except asyncio.CancelledError:
            # The service is ending, and this request took longer than it may; the server would call that a 500.
            if status == _GONE:
                refusal = _Refusal(503, "not_ready", "the service is ending", retry_after_seconds=1)
                await self._refuse(refusal, scope, receive, send_named)
            raise
        except Exception:
            status = 500
            raise
        finally:
            self._num_in_flight -= 1
            self._note(scope, status, time.perf_counter() - started)
            REQUEST_ID.reset(token)

    async def _handle(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope, headers)
        messages: list[Message] = []
        if refusal is None:
            refusal = await self._read_body(headers, receive, messages)
        if refusal is not None:
            await self._refuse(refusal, scope, receive, send)
        elif messages[-1]["type"] == "http.disconnect":
            return
        else:
            await self._app(scope, _replay(messages, receive), send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> _Refusal | None:
        """Why a request is refused unread."""
        limits = self._limits
        if self._num_in_flight > limits.max_in_flight and scope["path"] not in _PROBES:
            self._metrics.engine.request_shed("in_flight")
            detail = f"{limits.max_in_flight} requests are being answered"
            return _Refusal(429, "overloaded", detail, retry_after_seconds=1, ends_connection=True)
        if not limits.hosts.allows(headers.get(b"host")):
            detail = "this service goes by another name; HATSTAND_ALLOWED_HOSTS has those that it answers to"
            return _Refusal(400, "host_not_allowed", detail, ends_connection=True)
        if scope["method"] not in _READING_METHODS and not _is_same_site(headers, limits.origins):
            detail = "a page of another site sent this request; HATSTAND_CORS_ORIGINS names those that may"
            return _Refusal(403, "cross_origin", detail, ends_connection=True)
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limits.max_body_bytes:
            return self._too_large()
        return None

    async def _read_body(
        self, headers: dict[bytes, bytes], receive: Receive, messages: list[Message]
    ) -> _Refusal | None:
        """Fills in the messages of the body; why it is refused, or None."""
        limits = self._limits
        num_bytes = 0
        try:
            async with asyncio.timeout(limits.body_timeout_seconds):
                while not messages or messages[-1].get("more_body", False):
                    messages.append(await receive())
                    num_bytes += len(messages[-1].get("body", b""))
                    if num_bytes > limits.max_body_bytes:
                        return self._too_large()
        except TimeoutError:
            detail = f"the body was not there within {limits.body_timeout_seconds:g} s"
            return _Refusal(408, "request_timeout", detail, ends_connection=True)
        if not num_bytes:
            return None
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if content_type.partition(";")[0].strip().lower() != _JSON:
            return _Refusal(415, "unsupported_media_type", f"content type {content_type!r}, expected {_JSON}")
        body = b"".join(message.get("body", b"") for message in messages)
        reason = json_problem(body, max_depth=limits.max_json_depth)
        return None if reason is None else _Refusal(400, "malformed_json", reason)

    def _too_large(self) -> _Refusal:
        detail = f"the body is larger than {self._limits.max_body_bytes} bytes"
        return _Refusal(413, "payload_too_large", detail, ends_connection=True)

    async def _refuse(self, refusal: _Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.http.problem_sent(refusal.code)
        response = problem(
            status=refusal.status,
            code=refusal.code,
            detail=refusal.detail,
            request_id=scope["state"]["request_id"],
            instance=scope["path"],
            retry_after_seconds=refusal.retry_after_seconds,
        )
        if not refusal.ends_connection:
            await response(scope, receive, send)
            return
        response.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        # Closing a connection with data unread resets it, and the answer is lost with it.
        try:
            async with asyncio.timeout(min(_LINGER_SECONDS, self._limits.body_timeout_seconds)):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route, method = _route(scope), _method(scope)
        self._metrics.http.http_answered(route=route, method=method, status=status, seconds=seconds)
        is_failure = status >= 500
        if is_failure or self._limits.logs_all:
            LOGGER.log(
                logging.WARNING if is_failure else logging.INFO,
                "%s %s %d",
                method,
                route,
                status,
                extra={"milliseconds": round(seconds * 1_000, 1), "key": scope["state"].get("key_name")},
            )


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def receive_again() -> Message:
        for message in waiting:
            return message
        return await receive()

    return receive_again


def _completed(headers: list[tuple[bytes, bytes]], scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, with those that every answer has and those that the request earned."""
    state = scope["state"]
    completed = [*headers, (REQUEST_ID_HEADER.encode(), state["request_id"].encode())]
    earned: dict[str, str] = state.get("headers") or {}
    given = {name.lower() for name, _ in headers}
    completed += [
        (key, value.encode()) for name, value in earned.items() if (key := name.lower().encode()) not in given
    ]
    # Most answers have none of them, so that nothing is looked at one by one.
    missing = given.isdisjoint(_SECURITY_NAMES)
    completed += _SECURITY_HEADERS if missing else [one for one in _SECURITY_HEADERS if one[0] not in given]
    return completed


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The caller's own id if it is harmless in a log, or that of the trace that it belongs to, else a new one."""
    sent = headers.get(REQUEST_ID_HEADER.encode(), b"").decode("latin-1")
    if _SANE_REQUEST_ID.fullmatch(sent):
        return sent
    parent = headers.get(b"traceparent")
    trace = _TRACEPARENT.fullmatch(parent[:128].decode("latin-1")) if parent else None
    return trace[1] if trace else token_hex(16)


def _is_same_site(headers: dict[bytes, bytes], origins: frozenset[str]) -> bool:
    """Whether no browser says that the request comes from a page of somebody else.

    Browsers send ``Origin`` with every request that may change something; other callers do not.
    """
    origin = headers.get(b"origin")
    if origin is None:
        return headers.get(b"sec-fetch-site", b"none").lower() not in {b"cross-site", b"same-site"}
    name = origin.decode("latin-1")
    return bool({name, "*"} & origins) or origin.partition(b"://")[2] == headers.get(b"host", b"")


def _route(scope: Scope) -> str:
    """The template of the path, the same with and without ``/v1``."""
    path = getattr(scope.get("route"), "path", _NO_ROUTE)
    return str(path).removeprefix("/v1")


def _method(scope: Scope) -> str:
    # A caller may invent methods; a label may not.
    return scope["method"] if scope["method"] in _METHODS else "other"
