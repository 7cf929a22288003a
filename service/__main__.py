"""``python -m service``: settings from ``HATSTAND_*``, then HTTP until a signal ends it."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from socket import socket

import uvicorn
from fastapi import FastAPI

from model_store.errors import HatstandError
from service.app import create_app
from service.running import RunningService
from service.settings import Settings, load_settings

LOGGER = logging.getLogger("service")

_EXIT_BAD_SETTINGS = 2
_EXAMPLE_ITEMS = 3


class _Server(uvicorn.Server):
    """Says where it listens once it does, with a command that works when pasted."""

    def __init__(self, config: uvicorn.Config, *, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self._app = app
        self._settings = settings

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Starts, then logs the address."""
        await super().startup(sockets)
        if not self.started:
            return
        LOGGER.info("serving on %s (interactive documentation at /docs)", self._settings.url)
        service: RunningService = self._app.state.service
        example = _example(service)
        if example is not None and not self._settings.api_keys:
            LOGGER.info(
                "try:\ncurl -s %s/recommend -H 'content-type: application/json' -d '%s'",
                self._settings.url,
                example,
            )


def main() -> int:
    """Runs the service; returns the process' exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        settings = load_settings(os.environ)
        logging.getLogger().setLevel(settings.log_level)
        app = create_app(settings)
    except HatstandError as error:
        LOGGER.error("%s", error)
        return _EXIT_BAD_SETTINGS
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    server = _Server(config, app=app, settings=settings)
    server.run()
    return 0 if server.started else _EXIT_BAD_SETTINGS


def _example(service: RunningService) -> str | None:
    """A request that the live bundle certainly understands: a history of its most popular items."""
    if not service.bundles.live.bundles:
        return None
    catalogue = service.bundles.get().catalogue
    history: Sequence[str] = [catalogue.id_of(int(index)) for index in catalogue.popular()[:_EXAMPLE_ITEMS]]
    return json.dumps({"history": history, "k": 5}).replace("'", "\\u0027")


if __name__ == "__main__":
    sys.exit(main())
