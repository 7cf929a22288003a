"""RFC 9457 problem documents: every error leaves in this shape, with a stable code and the request's id."""

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from model_store.field_problems import describe_problem
from service.errors import ServiceError

LOGGER = logging.getLogger(__name__)

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
    errors: Sequence[Mapping[str, Any]] = (),
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
            errors=error.errors,
        )

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        if any(entry["type"] == "json_invalid" for entry in found):
            reason = str(found[0].get("ctx", {}).get("error", "not JSON"))
            return _answer(request, status=400, code="malformed_json", detail=f"the body is not JSON: {reason}")
        model = _body_model(request)
        placed = [(_pointer(entry, error.body), describe_problem(entry, model)) for entry in found[:_MAX_ERRORS]]
        errors = [{"pointer": pointer, "detail": detail} for pointer, detail in _deepest(placed)]
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


def _pointer(entry: Mapping[str, Any], body: Any) -> str:
    """Where in the body, as a JSON pointer (RFC 6901).

    FastAPI begins with the word "body", and pydantic names the kind of value where there may be several kinds: both are
    dropped.
    """
    source, *location = entry["loc"]
    parts, value = [], body
    for part in location:
        if isinstance(value, Mapping):
            is_inside = part in value
        else:
            is_inside = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if is_inside:
            value = value[part]
        elif source == "body" and not (entry["type"] == "missing" and part == location[-1]):
            continue
        parts.append(str(part).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def _deepest(placed: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without what is said of a value of which something is wrong inside: that its kind is another one."""
    pointers = [pointer for pointer, _ in placed]
    return [
        (pointer, detail)
        for pointer, detail in dict.fromkeys(placed)
        if not pointer or not any(other.startswith(f"{pointer}/") for other in pointers)
    ]


def _body_model(request: Request) -> type[BaseModel] | None:
    """What the route takes as its body."""
    body = getattr(request.scope.get("route"), "body_field", None)
    annotation = None if body is None else body.field_info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
