"""One of several processes that serve.

A worker listens nowhere: the parent accepts connections and hands them over, open. When the parent is gone, the worker
ends.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

from model_store.errors import HatstandError
from service.app import create_app
from service.engine.loading_turn import LoadingTurn
from service.errors import BundleRefused
from service.logs import configure
from service.settings import Settings
from service.workers.channel import Channel, PeerFailed
from service.workers.server import Server
from service.workers.siblings import Siblings

LOGGER = logging.getLogger("service")

# What ``ps -o comm`` shows, with the worker's number.
PROCESS_NAME = "hatstand-w"
_TAKEN_AT_ONCE = 32
_PARENT_SECONDS = 10.0
_EXIT_CANNOT_START = 2


class _WorkerServer(Server):
    """Serves connections that come from the parent.

    Args:
        channel: To the parent.
        handovers: A socket from which open connections come.
    """

    def __init__(self, *arguments: Any, channel: Channel, handovers: socket.socket) -> None:
        super().__init__(*arguments)
        self._channel = channel
        self._handovers = handovers
        self._taking: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells the parent that connections are welcome."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_reader(self._handovers, self._take)
        await self._channel.ask("serving", self.example(), timeout_seconds=_PARENT_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes what was handed over already, and then nothing more."""
        asyncio.get_running_loop().remove_reader(self._handovers)
        self._handovers.shutdown(socket.SHUT_RD)
        self._take()
        await asyncio.gather(*self._taking, return_exceptions=True)
        self._handovers.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends when the parent says so: a Ctrl-C reaches the parent as well, which knows what comes first."""
        if sig != signal.SIGINT:
            super().handle_exit(sig, frame)

    def _take(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_TAKEN_AT_ONCE):
            try:
                message, descriptors, _, _ = socket.recv_fds(self._handovers, 1, 1)
            except BlockingIOError:
                return
            if not message:
                return
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
                self._taking.add(task)
                task.add_done_callback(self._taking.discard)

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


class _Worker:
    """Answers the parent's questions."""

    def __init__(self) -> None:
        self.server: _WorkerServer | None = None

    async def answer(self, question: str, _: Any) -> Any:
        """Answers one question.

        Raises:
            PeerFailed: The service does not run yet, or there is no such question.
        """
        if self.server is None:
            raise PeerFailed("the worker is starting")
        service = self.server.service
        if question == "metrics":
            return service.metrics.render().decode()
        if question == "reload":
            return await _reload(self.server)
        if question != "report":
            raise PeerFailed(f"unknown question {question!r}")
        await service.health.look_at_histories()
        report = service.health.report()
        return {
            "status": report.status,
            "checks": dict(report.checks),
            "refused": {kind: dict(refusal) for kind, refusal in report.refused.items()},
            "hung": service.health.hung(),
        }


async def _reload(server: Server) -> str | None:
    """Why the worker does not serve what the store names, or None."""
    try:
        await server.service.bundles.reload()
    except BundleRefused as error:
        return error.detail
    return None


def run_worker(
    number: int,
    settings: Settings,
    channel: socket.socket,
    handovers: socket.socket,
    loading_turn: LoadingTurn,
) -> None:
    """Serves until the parent ends it, and ends the process.

    Args:
        number: Of the worker.
        settings: Checked values.
        channel: To the parent.
        handovers: Connections come from here.
        loading_turn: Among the workers.
    """
    # What was imported before the fork stays shared only as long as nobody, such as the collector, writes to it.
    gc.freeze()
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(f"{PROCESS_NAME}{number}")
    configure(settings.log_level, settings.log_format)
    _name_in_every_record(number)
    code = 1
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_serve(settings, channel, handovers, loading_turn))
    except Exception:
        # The boundary of a process.
        LOGGER.exception("the worker failed")
    # As in alone.py: a thread that never returns must not meet an interpreter that takes itself apart.
    logging.shutdown()
    os._exit(code)


async def _serve(settings: Settings, connection: socket.socket, handovers: socket.socket, turn: LoadingTurn) -> int:
    worker = _Worker()
    channel = Channel(connection, worker.answer)
    await channel.open()
    handovers.setblocking(False)
    try:
        app = create_app(settings, siblings=Siblings(channel), loading_turn=turn)
        worker.server = server = _WorkerServer(app, settings, channel=channel, handovers=handovers)
        orphaned = asyncio.create_task(_end_with_parent(channel, server), name="hatstand-orphaned")
        await server.run_until_signal([])
        orphaned.cancel()
    except HatstandError as error:
        with contextlib.suppress(PeerFailed):
            await channel.ask("failed", str(error), timeout_seconds=_PARENT_SECONDS)
        return _EXIT_CANNOT_START
    await channel.aclose()
    return 0


async def _end_with_parent(channel: Channel, server: Server) -> None:
    await channel.closed()
    LOGGER.error("the parent is gone; ending")
    if not server.started:
        os._exit(1)
    server.should_exit = True


def _name_in_every_record(number: int) -> None:
    make = logging.getLogRecordFactory()

    def make_with_worker(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = make(*arguments, **more)
        record.worker = number
        return record

    logging.setLogRecordFactory(make_with_worker)
