"""The application's own HTTP routes, asked in process: so keys, scopes, limits and checks are those of HTTP."""

from secrets import token_hex
from typing import Any, cast

import httpx2
from fastapi import FastAPI, Request
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

# What says who asks, and by which name the service is called.
_FORWARDED = ("authorization", "x-api-key", "host")
# Requests of agents are found by it in the log.
_REQUEST_ID_PREFIX = "mcp-"


class OwnRoutes:
    """Asks the routes of an application for whoever calls a tool.

    Args:
        app: With its middleware.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def ask(
        self,
        context: Context,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The answer of a route to the caller's key and address.

        Args:
            context: Of the tool's call.
            method: Of HTTP.
            path: Of the route.
            body: Fields that are None are left out.
            query: The same.

        Raises:
            ToolError: The route refused; the message is for the agent to read.
        """
        caller = cast("Request", context.request_context.request)  # as we serve nothing but HTTP
        transport = httpx2.ASGITransport(
            self._app, raise_app_exceptions=False, client=caller.client or ("127.0.0.1", 0)
        )
        headers = {name: value for name in _FORWARDED if (value := caller.headers.get(name)) is not None}
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.request(
                method,
                path,
                json=None if body is None else _without_none(body),
                params=_without_none(query or {}),
                headers={**headers, "x-request-id": f"{_REQUEST_ID_PREFIX}{token_hex(16)}"},
            )
        document: dict[str, Any] = answer.json()
        if answer.is_success:
            return document
        after = document.get("retry_after_seconds")
        wait = "" if after is None else f"; try again after {after} s"
        raise ToolError(f"{document['code']}: {document['detail']}{wait} (request {document['request_id']})")


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
