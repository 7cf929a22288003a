"""One process that serves: no parent, nobody else to ask."""

import asyncio
import logging
import os
from socket import socket
from typing import NoReturn

import uvloop

from service.app import create_app
from service.settings import Settings
from service.workers.announcement import announce
from service.workers.listeners import listen, url_of
from service.workers.server import Server


class _LoneServer(Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listens, and says so."""
        listen(sockets or [])
        await super().startup(sockets)
        announce(self.settings, url_of(sockets or [], self.settings.host), self.example())


def run_alone(settings: Settings, listeners: list[socket]) -> NoReturn:
    """Serves in this process until a signal comes, and ends the process.

    Args:
        settings: Checked values.
        listeners: Bound sockets.

    Raises:
        InvalidInput: It cannot start.
    """
    server = _LoneServer(create_app(settings), settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.run_until_signal(listeners))
    # A forward pass or a load that never returns has a thread, which must not be met by an interpreter that takes
    # itself apart: that can crash, and the end was a good one.
    logging.shutdown()
    os._exit(0)
