"""The application: the only place that reads the settings and puts the parts together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service.auth import Authenticator
from service.metrics import Metrics
from service.routes import events, items, operations, problems, recommend, users
from service.routes.middleware import RequestMiddleware
from service.running import run_service
from service.settings import Settings

_ROUTERS = (recommend.router, events.router, items.router, users.router, operations.router, operations.admin)


def create_app(settings: Settings) -> FastAPI:
    """Makes an application; its parts start and end with its lifespan.

    Args:
        settings: Checked values.

    Raises:
        InvalidInput: It would serve strangers beyond loopback without anybody having said so.
    """
    settings.check_access()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with run_service(settings, metrics) as service:
            app.state.service = service
            yield

    app = FastAPI(
        title="Hatstand",
        version=version("hatstand"),
        description="Recommendations from hierarchical language models.",
        lifespan=lifespan,
    )
    app.state.metrics = metrics
    app.state.authenticator = Authenticator(settings.api_keys)
    app.add_middleware(RequestMiddleware, metrics=metrics, max_body_bytes=settings.max_body_bytes)
    problems.install(app)
    for router in _ROUTERS:
        app.include_router(router)
        app.include_router(router, prefix="/v1", include_in_schema=False)
    return app
