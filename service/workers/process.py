"""One worker, seen from the parent.

Workers are forked from a server process of the standard library that has imported everything and run nothing: what the
libraries of the model take (some 300 MB) is in memory once, and a worker that replaces another one is there at once.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from typing import Any

from service.engine.loading_turn import LoadingTurn
from service.settings import Settings
from service.workers.channel import Answering, Channel, PeerFailed

_CONTEXT = multiprocessing.get_context("forkserver")
_WORKER_MODULE = "service.workers.worker"
_REPORT_SECONDS = 1.0


def preload_worker() -> None:
    """Has the server process import what workers need, once it starts."""
    _CONTEXT.set_forkserver_preload([_WORKER_MODULE])


def _run(*arguments: Any) -> None:
    # Imported in the new process alone: the parent has no use for torch.
    from service.workers.worker import run_worker

    run_worker(*arguments)


class WorkerProcess:
    """A process that serves connections.

    Attributes:
        number: 1 for the first worker; a worker that replaces another one has its number.
        is_serving: Whether connections are welcome.
        report: What the worker last said of itself; None while it does not answer.
        page: The worker's last page of metrics.
        num_reloads: Reloads of all workers that had been asked for when the worker began to load.
    """

    def __init__(self, number: int, *, num_reloads: int) -> None:
        self.number = number
        self.is_serving = False
        self.report: Mapping[str, Any] | None = None
        self.page = ""
        self.num_reloads = num_reloads
        self._answered_at = time.monotonic()
        self._process: ForkServerProcess | None = None
        self._channel: Channel | None = None
        self._handovers: socket.socket | None = None

    @property
    def process_id(self) -> int:
        """Of the running process."""
        return self._process.pid or 0 if self._process is not None else 0

    @property
    def is_ready(self) -> bool:
        """Whether the worker serves, and answered lately that it is able to."""
        return self.is_serving and self.report is not None and self.report["status"] != "not_ready"

    async def start(self, settings: Settings, loading_turn: LoadingTurn, *, answer: Answering) -> None:
        """Starts the process.

        Args:
            settings: Of the worker.
            loading_turn: Among the workers.
            answer: Answers the worker's questions.

        Raises:
            OSError, EOFError: The server process cannot be started, or has died.
        """
        here, there = socket.socketpair()
        # Of whole messages: a connection is never torn from the byte that it travels with.
        self._handovers, handovers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._handovers.setblocking(False)
        self._process = _CONTEXT.Process(target=_run, args=(self.number, settings, there, handovers, loading_turn))
        with there, handovers:
            # The first worker is there when the libraries are.
            await asyncio.to_thread(self._process.start)
        self._channel = Channel(here, answer)
        await self._channel.open()

    async def ended(self) -> int:
        """Waits for the end of the process; its exit code, or minus the signal that ended it."""
        assert self._process is not None
        loop, has_ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._process.sentinel, has_ended.set)
        await has_ended.wait()
        loop.remove_reader(self._process.sentinel)
        self._process.join()
        code = self._process.exitcode or 0
        self.is_serving = False
        self.report = None
        if self._channel is not None:
            await self._channel.aclose()
        if self._handovers is not None:
            self._handovers.close()
        return code

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process_id, number)

    def hand_over(self, connection: socket.socket) -> bool:
        """Gives the worker an open connection; False if the worker takes none now."""
        assert self._handovers is not None
        try:
            socket.send_fds(self._handovers, [b"c"], [connection.fileno()])
        except OSError:  # full, as of a worker whose event loop is stuck, or closed, as of one that ends
            return False
        return True

    async def ask(self, question: str, *, timeout_seconds: float) -> Any:
        """Asks the worker.

        Raises:
            PeerFailed: There is no answer.
        """
        assert self._channel is not None
        return await self._channel.ask(question, timeout_seconds=timeout_seconds)

    async def look(self) -> None:
        """Asks the worker how it is."""
        try:
            self.report = await self.ask("report", timeout_seconds=_REPORT_SECONDS)
            self._answered_at = time.monotonic()
        except PeerFailed:
            self.report = None

    def hung(self, hung_seconds: float) -> str | None:
        """Why only ending the process helps, or None.

        Args:
            hung_seconds: Without an answer for so long, a worker is hung; 0 = never.
        """
        if self.report is not None:
            reason: str | None = self.report["hung"]
            return reason
        silent_seconds = time.monotonic() - self._answered_at
        return f"no answer for {silent_seconds:.0f} s" if 0 < hung_seconds < silent_seconds else None
