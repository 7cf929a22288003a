"""One process that serves: no parent, nobody else to ask."""

import asyncio
from socket import socket

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


def run_alone(settings: Settings, listeners: list[socket]) -> int:
    """Serves in this process until a signal ends it; the exit code.

    Args:
        settings: Checked values.
        listeners: Bound sockets.

    Raises:
        InvalidInput: It cannot start.
    """
    server = _LoneServer(create_app(settings), settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.run_until_signal(listeners))
    return 0
