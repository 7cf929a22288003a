"""RFC 9457 problem documents: every error leaves in this shape, with a stable code and the request's id."""

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.errors import ServiceError

LOGGER = logging.getLogger(__name__)

# Longer values are not repeated to the caller.
_READABLE_LENGTH = 64

CONTENT_TYPE = "application/problem+json"
_MAX_ERRORS = 20
_CODES = {
    # the only one there is: FastAPI found no JSON in the body
    400: "malformed_json",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
}


def problem(
    *,
    status: int,
    code: str,
    detail: str,
    request_id: str,
    title: str | None = None,
    instance: str | None = None,
    retry_after_seconds: int | None = None,
    errors: Sequence[dict[str, Any]] = (),
    more_headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """One problem document as a response."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title or http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if instance is not None:
        body["instance"] = instance
    if errors:
        body["errors"] = list(errors)
    headers = dict(more_headers or {})
    if retry_after_seconds is not None:
        body["retry_after_seconds"] = retry_after_seconds
        headers["Retry-After"] = str(retry_after_seconds)
    if status == http.HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers, media_type=CONTENT_TYPE)


def install(app: FastAPI) -> None:
    """Makes every error of an application a problem document."""

    @app.exception_handler(ServiceError)
    async def on_service_error(request: Request, error: ServiceError) -> JSONResponse:
        return _answer(
            request,
            status=error.status,
            code=error.code,
            title=error.title,
            detail=error.detail,
            retry_after_seconds=error.retry_after_seconds,
            more_headers=error.headers,
        )

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        if any(entry["type"] == "json_invalid" for entry in found):
            reason = str(found[0].get("ctx", {}).get("error", "not JSON"))
            return _answer(request, status=400, code="malformed_json", detail=f"the body is not JSON: {reason}")
        errors = [
            {"pointer": _pointer(entry["loc"]), "detail": describe_problem(entry)} for entry in found[:_MAX_ERRORS]
        ]
        first = errors[0]
        detail = f"{first['pointer'] or 'the body'}: {first['detail']}"
        return _answer(
            request, status=422, code="invalid_request", title="Invalid request", detail=detail, errors=errors
        )

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "http_error")
        response = _answer(request, status=error.status_code, code=code, detail=str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
        LOGGER.error("request %s failed", request.state.request_id, exc_info=error)
        return _answer(
            request,
            status=500,
            code="internal_error",
            detail="the service failed; its log has the request_id",
        )


def _answer(request: Request, *, status: int, code: str, detail: str, **more: Any) -> JSONResponse:
    request.app.state.metrics.http.problem_sent(code)
    return problem(
        status=status,
        code=code,
        detail=detail,
        request_id=request.state.request_id,
        instance=request.url.path,
        **more,
    )


def _pointer(location: Sequence[str | int]) -> str:
    """Where in the body, as a JSON pointer (RFC 6901); the leading word of FastAPI is dropped."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location[1:])


def describe_problem(entry: Mapping[str, Any]) -> str:
    """What was expected of a value, and the value itself where it is short enough to read.

    Args:
        entry: One of pydantic's ``errors()``.
    """
    value = entry.get("input")
    is_readable = (
        isinstance(value, str | int | float) and len(str(value)) <= _READABLE_LENGTH and str(value).isprintable()
    )
    if entry["type"] == "missing" or not is_readable:
        return str(entry["msg"])
    return f"{entry['msg']}, got {value!r}"
