"""What happens to every request: an id, a bound on its body, and its time taken."""

import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics
from service.routes.problems import problem

REQUEST_ID_HEADER = "x-request-id"
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_NO_ROUTE = "none"


class RequestMiddleware:
    """Names, bounds and measures requests.

    Args:
        app: What answers them.
        metrics: Where times go.
        max_body_bytes: A larger body is refused before it is parsed, and never held whole.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_body_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 500

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID_HEADER.encode(), request_id.encode())]
            await send(message)

        try:
            body = await self._read_body(scope, receive)
            if body is None:
                await self._refuse(scope, receive, send_named)
            else:
                await self._app(scope, _replay(body, receive), send_named)
        finally:
            self._metrics.http_answered(
                route=_route(scope),
                method=_method(scope),
                status=status,
                seconds=time.perf_counter() - started,
            )

    async def _read_body(self, scope: Scope, receive: Receive) -> list[Message] | None:
        """The messages of the body, or None if they are too many bytes."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self._max_body_bytes:
            return None
        messages: list[Message] = []
        num_bytes = 0
        while True:
            message = await receive()
            messages.append(message)
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                return None
            if message["type"] != "http.request" or not message.get("more_body", False):
                return messages

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.problem_sent("payload_too_large")
        response = problem(
            status=413,
            code="payload_too_large",
            detail=f"the body is larger than {self._max_body_bytes} bytes",
            request_id=scope["state"]["request_id"],
            instance=scope["path"],
        )
        # What was not read must not be taken for the next request.
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def receive_again() -> Message:
        for message in waiting:
            return message
        return await receive()

    return receive_again


def _request_id(scope: Scope) -> str:
    """The caller's own id if it is harmless in a log, else a new one."""
    sent = dict(scope["headers"]).get(REQUEST_ID_HEADER.encode(), b"").decode("latin-1")
    return sent if _SANE_REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The template of the path, the same with and without ``/v1``."""
    path = getattr(scope.get("route"), "path", _NO_ROUTE)
    return str(path).removeprefix("/v1")


def _method(scope: Scope) -> str:
    # A caller may invent methods; a label may not.
    return (
        scope["method"] if scope["method"] in {"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"} else "other"
    )
