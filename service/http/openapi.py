"""The OpenAPI document: what FastAPI finds out by itself, and what it cannot know: keys, and every way to be refused.

``python -m service.http.openapi`` prints it; ``docs/openapi.json`` is kept equal to that.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")
_PROBLEM_TYPE = "application/problem+json"
# Who may ask is decided in front of them, and they must answer when nothing else does.
_WITHOUT_KEY = frozenset({"/livez", "/readyz", "/metrics", "/version"})
_PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "Why a request was not answered (RFC 9457)",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was wrong, the value, and what was expected"},
        "code": {"type": "string", "description": "A stable word for programs"},
        "request_id": {"type": "string", "description": "In the log, too"},
        "instance": {"type": "string"},
        "retry_after_seconds": {"type": "integer", "minimum": 0},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "description": "Where in the body (RFC 6901)"},
                    "detail": {"type": "string"},
                },
                "required": ["pointer", "detail"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "request_id"],
}
_DESCRIPTIONS = {
    400: "The body is not JSON, or nested too deep; or the service does not go by the name in Host",
    401: "No API key, or an unknown one",
    403: "The key lacks the scope, or a page of another site sent the request",
    404: "There is no such thing",
    408: "The request was not there in time",
    409: "It cannot be done now: the bundle cannot be served and the live one goes on, or a bound is reached",
    410: "The cursor has expired",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "A value is wrong; `errors` says which",
    429: "Too many requests: of this key, or for this service; Retry-After says when to come back",
    503: "Not ready, or what the answer needs does not answer; Retry-After says when to come back",
    504: "The answer was not there within the deadline",
}
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same API key"},
}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Adds refusals and keys to a document of FastAPI, in place.

    Args:
        document: An OpenAPI document; completing it twice changes nothing.
    """
    components = document.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    components["securitySchemes"] = _SECURITY_SCHEMES
    for path, method, operation in _operations(document):
        responses = operation["responses"]
        for status in _refusals(path, method, operation):
            responses[str(status)] = {
                "description": _DESCRIPTIONS[status],
                "content": {_PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
        if path not in _WITHOUT_KEY:
            # Without configured keys nobody needs one.
            operation["security"] = [{"bearer": []}, {"header": []}, {}]
    for path in ("/livez", "/readyz"):
        if path in document["paths"]:
            responses = document["paths"][path]["get"]["responses"]
            responses["503"] = {"description": "Not so", "content": responses["200"]["content"]}
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _refusals(path: str, method: str, operation: dict[str, Any]) -> list[int]:
    """Every status with which a request may be refused, besides what the operation says itself."""
    if path in _WITHOUT_KEY:
        return []
    statuses = {401, 403, 408, 413, 422, 429, 503}
    if "requestBody" in operation:
        statuses |= {400, 415}
    if method == "post" and path in {"/recommend", "/rank"}:
        statuses |= {404, 410, 504}
    if "{" in path or path.startswith("/admin"):
        statuses.add(404)
    if path.startswith("/admin"):
        statuses.add(409)
    return sorted(statuses)


def main() -> None:
    """Prints the document of an application with default settings."""
    # Not at the top: the application itself needs this module.
    from service.app import create_app
    from service.settings import Settings

    json.dump(create_app(Settings()).openapi(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
