"""``python -m service``: settings from ``HATSTAND_*``, then HTTP until a signal ends it."""

import asyncio
import gc
import json
import logging
import os
import signal
from collections.abc import Callable
from socket import socket
from types import FrameType

import uvicorn
import uvloop

from model_store.errors import HatstandError
from service.app import create_app
from service.http.connections import ConnectionLimits, bounded
from service.logs import configure
from service.settings import Settings, load_settings
from service.wiring import RunningService

LOGGER = logging.getLogger("service")

_EXIT_BAD_SETTINGS = 2
_EXAMPLE_ITEMS = 3


class _Server(uvicorn.Server):
    """Says where it listens once it does, with a command that works when pasted."""

    def __init__(self, config: uvicorn.Config, *, settings: Settings, service: Callable[[], RunningService]) -> None:
        super().__init__(config)
        self._settings = settings
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ending = False

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Starts, then logs the address."""
        await super().startup(sockets)
        if not self.started:
            return
        self._loop = asyncio.get_running_loop()
        url = _url(self._settings, self)
        LOGGER.info("serving on %s (documentation at %s/docs)", url, url)
        body = _example_body(self._service())
        if body is not None:
            key = " -H 'authorization: Bearer <key>'" if self._settings.api_keys else ""
            LOGGER.info("try it:\ncurl -s %s/recommend -H 'content-type: application/json'%s -d '%s'", url, key, body)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends at the first signal after the delay that load balancers are given, at the second one at once."""
        delay = self._settings.shutdown_delay_seconds
        if self._loop is None or not delay or self._is_ending:
            super().handle_exit(sig, frame)
            return
        self._is_ending = True
        LOGGER.info("not ready from now on; ending in %d s", delay)
        self._service().health.begin_draining()
        # From a signal handler only this may touch the loop.
        self._loop.call_soon_threadsafe(self._loop.call_later, delay, super().handle_exit, sig, frame)


def main() -> int:
    """Runs the service; returns the process' exit code."""
    configure("INFO", "text")
    try:
        settings = load_settings(os.environ)
        configure(settings.log_level, settings.log_format)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings))
    except HatstandError as error:
        LOGGER.error("%s", error)
        return _EXIT_BAD_SETTINGS


async def _serve(settings: Settings) -> int:
    app = create_app(settings)
    limits = ConnectionLimits(
        max_connections=settings.max_connections,
        max_headers=settings.max_headers,
        max_header_bytes=settings.max_header_bytes,
        max_body_bytes=settings.max_body_bytes,
        header_timeout_seconds=settings.header_timeout_seconds,
        refused=app.state.metrics.problem_sent,
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
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
    server = _Server(config, settings=settings, service=lambda: app.state.service)
    # uvicorn raises a signal again once it has stopped serving; without these it would end us before the lifespan
    # does, and one that comes while the model loads would not be heard.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    async with app.router.lifespan_context(app):
        app.state.metrics.watch_connections(lambda: len(server.server_state.connections))
        # A full collection looks at half a million objects of the libraries, and everybody waits for 0.4 s. None of
        # them is garbage; without them it takes a millisecond.
        gc.collect()
        gc.freeze()
        await server.serve()
    return 0 if server.started else _EXIT_BAD_SETTINGS


def _url(settings: Settings, server: uvicorn.Server) -> str:
    """Where a caller on this machine finds the service; with port 0, the port that the system chose."""
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::", ""} else settings.host
    port = settings.port or server.servers[0].sockets[0].getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _example_body(service: RunningService) -> str | None:
    """A request that the live bundle certainly understands: a history of its most popular items."""
    if not service.bundles.live.bundles:
        return None
    catalogue = service.bundles.get().catalogue
    history = [catalogue.id_of(int(index)) for index in catalogue.popular()[:_EXAMPLE_ITEMS]]
    # JSON may write an apostrophe as an escape; the shell's quotes may not hold one.
    return json.dumps({"history": history, "k": 5}).replace("'", "\\u0027")


if __name__ == "__main__":
    code = main()
    # A forward pass or a load that never returns has a daemon thread, which must not be met by an interpreter that
    # takes itself apart: that can crash, and the end was a good one.
    logging.shutdown()
    os._exit(code)
