"""The HTTP server of one process: uvicorn with our limits, and an orderly end."""

import asyncio
import logging
import signal
from socket import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.engine.loading import freeze_what_lives
from service.http.connections import ConnectionLimits, bounded
from service.settings import Settings
from service.wiring import RunningService
from service.workers.announcement import example_body

LOGGER = logging.getLogger("service")

_EXAMPLE_ITEMS = 3


class Server(uvicorn.Server):
    """Serves an application until a signal ends it.

    Args:
        app: Its lifespan is entered by ``run``.
        settings: Checked values.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(_config(app, settings))
        self.app = app
        self.settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ending = False

    @property
    def service(self) -> RunningService:
        """The parts, once they run."""
        service: RunningService = self.app.state.service
        return service

    async def run_until_signal(self, sockets: list[socket]) -> None:
        """Starts the service, answers, and ends the service.

        Args:
            sockets: That listen; they are closed in the end.
        """
        # uvicorn raises a signal again once it has stopped serving; without these it would end us before the lifespan
        # does, and one that comes while the model loads would not be heard.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        async with self.app.router.lifespan_context(self.app):
            self.app.state.metrics.http.watch_connections(lambda: len(self.server_state.connections))
            freeze_what_lives()
            await self.serve(sockets)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Begins to serve."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends at the first signal after the delay that load balancers are given, at the second one at once."""
        delay = self.settings.shutdown_delay_seconds
        if self._loop is None or not delay or self._is_ending:
            super().handle_exit(sig, frame)
            return
        self._is_ending = True
        LOGGER.info("not ready from now on; ending in %d s", delay)
        self.service.health.begin_draining()
        # From a signal handler only this may touch the loop.
        self._loop.call_soon_threadsafe(self._loop.call_later, delay, super().handle_exit, sig, frame)

    def example(self) -> str | None:
        """A request that the live bundle certainly understands: a history of its most popular items."""
        if not self.service.bundles.live.bundles:
            return None
        catalogue = self.service.bundles.get().catalogue
        return example_body([catalogue.id_of(int(index)) for index in catalogue.popular()[:_EXAMPLE_ITEMS]])


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    limits = ConnectionLimits(
        max_connections=settings.max_connections,
        max_headers=settings.max_headers,
        max_header_bytes=settings.max_header_bytes,
        max_body_bytes=settings.max_body_bytes,
        header_timeout_seconds=settings.header_timeout_seconds,
        refused=app.state.metrics.http.problem_sent,
    )
    return uvicorn.Config(
        app,
        http=bounded(limits),
        ws="none",
        timeout_keep_alive=settings.keep_alive_seconds,
        # Whoever may name another address than its own can have any limit of an address to itself.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        # We enter the lifespan ourselves: uvicorn would turn a one-line reason into a traceback.
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
