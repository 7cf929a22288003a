"""The application: the only place that reads the settings and puts the parts together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from model_store.errors import InvalidInput
from service.engine.loading_turn import LoadingTurn
from service.http import openapi, problems
from service.http.auth import Authenticator
from service.http.hosts import AllowedHosts
from service.http.middleware import REQUEST_ID_HEADER, RequestLimits, RequestMiddleware
from service.metrics.metrics import Metrics
from service.routes import admin as catalogue_admin
from service.routes import console, decisions, events, items, llms, rank, recommend, reference
from service.routes import people as users
from service.routes import probes as operations
from service.settings import Settings
from service.wiring import run_service
from service.workers.siblings import Siblings

_ROUTERS = (
    recommend.router,
    rank.router,
    decisions.router,
    events.router,
    items.router,
    users.router,
    operations.router,
    operations.admin,
    catalogue_admin.router,
)


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The document, with what FastAPI cannot know."""
        return openapi.complete(super().openapi())


def create_app(
    settings: Settings, *, siblings: Siblings | None = None, loading_turn: LoadingTurn | None = None
) -> FastAPI:
    """Makes an application; its parts start and end with its lifespan.

    Args:
        settings: Checked values.
        siblings: All workers, where there are several.
        loading_turn: Among the workers.

    Raises:
        InvalidInput: It would serve strangers beyond loopback without anybody having said so.
    """
    settings.check_access()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with run_service(settings, metrics, siblings=siblings, loading_turn=loading_turn) as service:
            app.state.service = service
            async with _mcp(app, settings):
                yield

    app = _App(
        title="Hatstand",
        version=version("hatstand"),
        description="Recommendations from hierarchical language models.",
        lifespan=lifespan,
        # operations are called as their functions are, without the path behind the name
        generate_unique_id_function=lambda route: route.name,
        # FastAPI's own pages load what they show from a public network
        docs_url=None,
        redoc_url=None,
    )
    app.state.metrics = metrics
    app.state.authenticator = Authenticator(settings, metrics)
    limits = RequestLimits(
        max_body_bytes=settings.max_body_bytes,
        max_json_depth=settings.max_json_depth,
        body_timeout_seconds=settings.body_timeout_seconds,
        max_in_flight=settings.max_in_flight,
        origins=frozenset(settings.cors_origins),
        hosts=AllowedHosts(settings.hosts),
        logs_all=settings.log_requests,
    )
    app.add_middleware(RequestMiddleware, metrics=metrics, limits=limits)
    if settings.cors_origins:
        # Outermost, so that a browser may read refusals, too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key", REQUEST_ID_HEADER, "traceparent"],
            expose_headers=[REQUEST_ID_HEADER, "retry-after", "ratelimit", "ratelimit-policy"],
        )
    problems.install(app)
    for router in _ROUTERS:
        app.include_router(router)
        app.include_router(router, prefix="/v1", include_in_schema=False)
    for router in (llms.router, reference.router):
        app.include_router(router, include_in_schema=False)
    console.install(app, settings)
    return app


@asynccontextmanager
async def _mcp(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """Answers agents, if the settings want it.

    Raises:
        InvalidInput: They do, and the extra is not installed.
    """
    if not settings.mcp:
        yield
        return
    try:
        from service.mcp.server import running_mcp
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"HATSTAND_MCP is on, and {error.name} is not installed: python -m pip install -e '.[mcp]'"
        ) from error
    async with running_mcp(app, max_body_bytes=settings.max_body_bytes):
        yield
