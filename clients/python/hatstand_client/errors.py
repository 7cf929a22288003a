"""What can go wrong.

::

    HatstandError
    ├── ConnectionFailed       there was no answer
    ├── UnexpectedAnswer       the answer is not one of a Hatstand service
    ├── QueueFull              more events wait than an EventSender may keep
    └── Problem                the service refused
        ├── InvalidRequest     400, 413, 415, 422  the request cannot be understood
        ├── Unauthorized       401  no API key, or an unknown one
        ├── Forbidden          403  the key may not do this
        ├── NotFound           404
        ├── Conflict           409
        ├── Gone               410  the cursor has expired
        ├── TooManyRequests    429  of this key, or for the service
        ├── Unavailable        502, 503
        └── DeadlineExceeded   504
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


class HatstandError(Exception):
    """Base of all errors of the client."""


class ConnectionFailed(HatstandError):
    """The service did not answer; the cause is the transport's own error.

    Args:
        detail: What happened.
        request_id: That of the request; the service's log has it if the request arrived.
    """

    def __init__(self, detail: str, *, request_id: str) -> None:
        super().__init__(f"{detail} (request {request_id})")
        self.request_id = request_id


class UnexpectedAnswer(HatstandError):
    """The answer does not have the documented form; maybe something else answers under the address."""


class QueueFull(HatstandError):
    """More events wait than an EventSender may keep."""


class Problem(HatstandError):
    """The service refused a request.

    Attributes:
        status: Of HTTP.
        code: A stable word for programs, such as ``cursor_expired``.
        detail: What was wrong, for people.
        request_id: The service's log has it, too.
        errors: Where in the body something is wrong: dictionaries with ``pointer`` and ``detail``.
        retry_after_seconds: When to ask again, if the service says so.
    """

    def __init__(
        self,
        *,
        status: int,
        code: str,
        detail: str,
        request_id: str,
        errors: Sequence[Mapping[str, str]] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail} (request {request_id})")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.errors = list(errors)
        self.retry_after_seconds = retry_after_seconds


class InvalidRequest(Problem):
    """The request cannot be understood."""


class Unauthorized(Problem):
    """There is no API key, or it is unknown."""


class Forbidden(Problem):
    """The API key may not do this."""


class NotFound(Problem):
    """What the request names does not exist."""


class Conflict(Problem):
    """It cannot be done now."""


class Gone(Problem):
    """The cursor has expired; ask for a new list."""


class TooManyRequests(Problem):
    """Too many requests: of this key or address, or for the service."""


class Unavailable(Problem):
    """The service cannot answer now."""


class DeadlineExceeded(Problem):
    """The answer was not there in time."""


_BY_STATUS: Mapping[int, type[Problem]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}


def problem(status: int, headers: Mapping[str, str], body: bytes, *, request_id: str) -> Problem:
    """The error for an answer that is none.

    Args:
        status: Of HTTP, 300 or more.
        headers: Of the answer; names in any case, as httpx2 has them.
        body: A problem document (RFC 9457), or what a proxy says instead.
        request_id: That of the request, if the answer has none.
    """
    document = _document(body)
    return _BY_STATUS.get(status, Problem)(
        status=status,
        code=str(document.get("code", f"http_{status}")),
        detail=str(document.get("detail", "the answer is no problem document; a proxy may have sent it")),
        request_id=str(document.get("request_id", request_id)),
        errors=document.get("errors", ()),
        retry_after_seconds=_retry_after_seconds(headers.get("retry-after", "")),
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _retry_after_seconds(header: str) -> float | None:
    """Seconds from now; the header has seconds or a date."""
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)
