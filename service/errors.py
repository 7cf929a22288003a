"""What can go wrong with a request; each error knows its status and its stable code, and nothing of HTTP.

::

    ServiceError
    ├── InvalidRequest          422  the caller's request cannot be understood
    ├── Unauthorized            401  no key, or an unknown one
    ├── Forbidden               403  the key lacks the scope, or another site's page sent the request
    ├── NotFound                404  the item is not in the catalogue
    ├── Gone                    410  the list that a cursor belongs to is no longer kept
    ├── BundleRefused           409  the published bundle cannot be served; the old one goes on
    ├── TooManyHidden           409  no more items may be hidden
    ├── Overloaded              429  the queue is full, or too long for the deadline; carries retry_after_seconds
    ├── RateLimited             429  the caller asked more often than allowed; carries retry_after_seconds
    ├── NotReady                503  no bundle is loaded yet, or the service is ending
    ├── ModelUnavailable        503  the model's thread is stuck or has died
    ├── HistoryUnavailable      503  the history store does not answer
    └── DeadlineExceeded        504  the answer was not there in time
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar


class ServiceError(Exception):
    """Base of all errors that become a problem document.

    Args:
        detail: What was wrong, the value, and what was expected, for the caller to read.
        code: A stable word for programs, where the class' own is too coarse.
        retry_after_seconds: When to ask again, where that was computed; the class' own otherwise.
        headers: Further ones of the answer.
        errors: What is wrong where in the body, with ``pointer``, ``detail`` and maybe ``code``.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    default_code: ClassVar[str] = "internal_error"
    default_retry_after_seconds: ClassVar[int | None] = None

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        retry_after_seconds: int | None = None,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.errors = list(errors)
        self.detail = detail
        self.code = code or self.default_code
        self.retry_after_seconds = (
            self.default_retry_after_seconds if retry_after_seconds is None else retry_after_seconds
        )
        self.headers = dict(headers or {})


class InvalidRequest(ServiceError):
    """The caller's request cannot be understood."""

    status = 422
    title = "Invalid request"
    default_code = "invalid_request"


class Unauthorized(ServiceError):
    """No API key was sent, or one that is not configured."""

    status = 401
    title = "Unauthorized"
    default_code = "unauthorized"


class Forbidden(ServiceError):
    """The API key does not have the scope that this endpoint needs."""

    status = 403
    title = "Forbidden"
    default_code = "forbidden"


class NotFound(ServiceError):
    """The thing that the path names does not exist."""

    status = 404
    title = "Not found"
    default_code = "not_found"


class Gone(ServiceError):
    """The list that a cursor belongs to is no longer kept, or is of a bundle that is no longer live."""

    status = 410
    title = "Gone"
    default_code = "cursor_expired"


class BundleRefused(ServiceError):
    """The bundle that should be served cannot be; the one already loaded goes on."""

    status = 409
    title = "Bundle refused"
    default_code = "bundle_refused"


class TooManyHidden(ServiceError):
    """As many items are hidden as may be."""

    status = 409
    title = "Too many hidden items"
    default_code = "too_many_hidden"


class Overloaded(ServiceError):
    """Too many requests are waiting, for the queue or for this one's deadline."""

    status = 429
    title = "Overloaded"
    default_code = "overloaded"
    default_retry_after_seconds = 1


class RateLimited(ServiceError):
    """The caller asked more often than its key, or its address, may."""

    status = 429
    title = "Too many requests"
    default_code = "rate_limited"
    default_retry_after_seconds = 1


class NotReady(ServiceError):
    """There is no bundle to answer from, or the service is ending."""

    status = 503
    title = "Not ready"
    default_code = "not_ready"
    default_retry_after_seconds = 5


class ModelUnavailable(ServiceError):
    """The model's thread is stuck in a forward pass, or has died and is being started again."""

    status = 503
    title = "Model unavailable"
    default_code = "model_unavailable"
    default_retry_after_seconds = 2


class HistoryUnavailable(ServiceError):
    """The history store does not answer; nothing that was refused with this error was acknowledged."""

    status = 503
    title = "History store unavailable"
    default_code = "history_unavailable"
    default_retry_after_seconds = 2


class DeadlineExceeded(ServiceError):
    """The answer was not there within the request's deadline."""

    status = 504
    title = "Deadline exceeded"
    default_code = "deadline_exceeded"
