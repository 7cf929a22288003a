"""``/mcp``: the tools over streamable HTTP, in the process that answers HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ToolAnnotations

from service.mcp.own_routes import OwnRoutes
from service.mcp.tools import Tools

PATH = "/mcp"
_INSTRUCTIONS = (
    "Recommendations for a shop's catalogue. Find item ids with search_items; recommend for a user, a session, or a "
    "history of item ids; ask explain why an item is there. Send your API key as a bearer token."
)
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)


@asynccontextmanager
async def running_mcp(app: FastAPI, *, max_body_bytes: int) -> AsyncIterator[None]:
    """``POST /mcp`` of an application, answered within the block.

    Every request stands for itself and is answered by JSON, so any worker and any replica may take the next one.

    Args:
        app: Gets the route; its own routes do what the tools promise.
        max_body_bytes: Of a request.
    """
    server = _server(Tools(OwnRoutes(app)))
    mcp_app = server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=True,
        stateless_http=True,
        max_request_body_size=max_body_bytes,
        # hosts and origins are checked by our own middleware
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    # an ASGI application is taken, too
    app.add_route(PATH, mcp_app, methods=["POST"], include_in_schema=False)  # type: ignore[arg-type]
    async with server.session_manager.run():
        yield


def _server(tools: Tools) -> MCPServer:
    server = MCPServer("hatstand", version=version("hatstand"), instructions=_INSTRUCTIONS)
    for read in (tools.recommend, tools.similar_items, tools.search_items, tools.explain):
        server.add_tool(read, annotations=_READS)
    server.add_tool(tools.record_event, annotations=_WRITES)
    return server
