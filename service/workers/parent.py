"""The parent of several workers: starts them, hands connections to them in turn, and replaces one that ends.

Why the parent accepts: with ``SO_REUSEPORT`` each worker has a queue of its own, and what waits in the queue of a
worker that dies is lost; with one inherited socket whoever wakes first takes a whole burst, so that a proxy's lasting
connections end up with one worker. In turns every worker has its share, a dead or unready one gets none, and a
connection costs one message more, not a request.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
from typing import Any

from model_store.errors import InvalidInput
from service.engine.loading_turn import LoadingTurn
from service.redis.directory import embedded_directory
from service.redis.embedded import EmbeddedRedis
from service.settings import EMBEDDED, Settings
from service.workers.announcement import announce
from service.workers.everyone import Everyone
from service.workers.listeners import close, listen, url_of
from service.workers.number import usable_cores
from service.workers.process import WorkerProcess, preload_worker

LOGGER = logging.getLogger("service")

_ACCEPTED_AT_ONCE = 64
_FIRST_PAUSE_SECONDS = 1.0
_LAST_PAUSE_SECONDS = 30.0
_LOOK_EVERY_SECONDS = 1.0
_NO_DESCRIPTORS_PAUSE_SECONDS = 0.1
# Beyond what a worker's requests in flight may take, before the worker is killed.
_END_SECONDS = 30.0
_EXIT_CANNOT_START = 2


class Parent:
    """Looks after workers.

    Args:
        settings: Checked values.
        listeners: Bound sockets.
        redis_url: Where Redis is.
        num_workers: How many there are to be.
    """

    def __init__(self, settings: Settings, listeners: list[socket.socket], *, redis_url: str, num_workers: int) -> None:
        self._settings = settings
        self._listeners = listeners
        self._num_workers = num_workers
        self._worker_settings = _worker_settings(settings, redis_url, num_workers)
        # Unnamed: the file is gone when the last process is.
        self._turn_file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the workers
        self._loading_turn = LoadingTurn(self._turn_file.fileno(), num_processes=num_workers)
        self._everyone = Everyone(num_workers)
        self._accepts = False
        self._example: str | None = None
        self._problem: str | None = None
        self._ending = asyncio.Event()
        self._tried = [asyncio.Event() for _ in range(num_workers)]
        self._turn = 0

    @property
    def threads_of_worker(self) -> int:
        """For a forward pass, or a search."""
        return self._worker_settings.torch_threads

    async def run(self) -> int:
        """Serves until a signal comes; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        async with asyncio.TaskGroup() as tasks:
            slots = [tasks.create_task(self._keep(number)) for number in range(1, self._num_workers + 1)]
            beside = [tasks.create_task(self._announce()), tasks.create_task(self._look())]
            await asyncio.wait(slots)
            for task in beside:
                task.cancel()
        close(self._listeners)
        self._turn_file.close()
        if self._problem is not None:
            raise InvalidInput(self._problem)
        return 0

    async def _keep(self, number: int) -> None:
        """Has a worker of this number until the end."""
        pause = 0.0
        while not self._ending.is_set():
            worker = WorkerProcess(number, num_reloads=self._everyone.num_reloads)
            has_served, code = await self._run_one(worker)
            self._tried[number - 1].set()
            if self._ending.is_set():
                return
            pause = 0.0 if has_served else min(max(2 * pause, _FIRST_PAUSE_SECONDS), _LAST_PAUSE_SECONDS)
            when = "at once" if not pause else f"in {pause:.0f} s"
            LOGGER.error(
                "worker %d (process %d) ended with code %d; replaced %s", number, worker.process_id, code, when
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)

    async def _run_one(self, worker: WorkerProcess) -> tuple[bool, int]:
        """Runs a worker to its end: whether it has ever served, and its exit code."""
        has_served = False

        async def answer(question: str, body: Any) -> Any:
            nonlocal has_served
            if question == "serving":
                has_served = True
                await self._welcome(worker, body)
                return None
            if question == "failed":
                self._fail(worker, body)
                return None
            return await self._everyone.answer(question, worker)

        try:
            await worker.start(self._worker_settings, self._loading_turn, answer=answer)
        except (OSError, EOFError) as error:
            LOGGER.error("worker %d cannot be started: %s", worker.number, error)
            return False, 0
        if self._ending.is_set():
            worker.send(signal.SIGTERM)
        self._everyone.came(worker)
        code = await worker.ended()
        self._everyone.left(worker)
        self._accept_if_served()
        return has_served, code

    async def _welcome(self, worker: WorkerProcess, example: str | None) -> None:
        """A worker begins to serve."""
        self._example = example
        await self._everyone.catch_up(worker)
        await worker.look()
        worker.is_serving = True
        self._accept_if_served()
        self._tried[worker.number - 1].set()

    def _fail(self, failed: WorkerProcess, problem: str) -> None:
        """A worker cannot start; without any that can, the service ends."""
        if self._everyone.has_served:
            LOGGER.error("worker %d cannot start: %s", failed.number, problem)
        elif self._problem is None:
            self._problem = problem
            self._end()
            for worker in self._everyone.alive:
                worker.send(signal.SIGKILL)

    async def _announce(self) -> None:
        await asyncio.gather(*(tried.wait() for tried in self._tried))
        if self._everyone.serving and not self._ending.is_set():
            url = url_of(self._listeners, self._settings.host)
            announce(self._settings, url, self._example, num_workers=len(self._everyone.serving))

    async def _look(self) -> None:
        """Asks the workers how they are, so that who is not ready gets no connections, and who is hung is replaced."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            await self._everyone.look()
            for worker in self._everyone.serving:
                reason = worker.hung(self._settings.model_hung_seconds)
                if reason:
                    LOGGER.error("worker %d is killed: %s", worker.number, reason)
                    worker.send(signal.SIGKILL)

    def _end(self) -> None:
        """Lets the workers end; called again, as they do at a second signal."""
        loop = asyncio.get_running_loop()
        for worker in self._everyone.alive:
            worker.send(signal.SIGTERM)
        if self._ending.is_set():
            return
        self._ending.set()
        delay = self._settings.shutdown_delay_seconds
        loop.call_later(delay, self._stop_accepting)
        loop.call_later(delay + self._settings.shutdown_seconds + _END_SECONDS, self._kill_all)

    def _kill_all(self) -> None:
        for worker in self._everyone.alive:
            LOGGER.error("worker %d did not end, and is killed", worker.number)
            worker.send(signal.SIGKILL)

    def _accept_if_served(self) -> None:
        """Connections wait in the listeners' queues while nobody serves, and are refused before anybody has."""
        loop = asyncio.get_running_loop()
        should_accept = bool(self._everyone.serving) and self._listeners[0].fileno() >= 0
        if should_accept == self._accepts:
            return
        self._accepts = should_accept
        for listener in self._listeners:
            if should_accept:
                listen([listener])
                loop.add_reader(listener, self._accept, listener)
            elif listener.fileno() >= 0:
                loop.remove_reader(listener)

    def _stop_accepting(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
        close(self._listeners)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                LOGGER.error("no connection can be accepted: %s", error)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                self._accepts = False
                loop.call_later(_NO_DESCRIPTORS_PAUSE_SECONDS, self._accept_if_served)
                return
            with connection:
                self._hand_over(connection)

    def _hand_over(self, connection: socket.socket) -> None:
        """Gives a connection to the next worker in turn, to one that is ready if there is one."""
        serving = self._everyone.serving
        self._turn += 1
        in_turn = [serving[(self._turn + place) % len(serving)] for place in range(len(serving))]
        for worker in sorted(in_turn, key=lambda one: not one.is_ready):
            if worker.hand_over(connection):
                return


def _worker_settings(settings: Settings, redis_url: str, num_workers: int) -> Settings:
    """Those of the workers: Redis runs already, and each has its share of the cores."""
    threads = settings.torch_threads or max(usable_cores() // num_workers, 1)
    return settings.model_copy(update={"redis_url": redis_url, "torch_threads": threads})


def run_workers(settings: Settings, listeners: list[socket.socket], *, num_workers: int) -> int:
    """Serves by several workers until a signal comes; the exit code.

    Args:
        settings: Checked values.
        listeners: Bound sockets.
        num_workers: At least two.

    Raises:
        InvalidInput: The service cannot start.
    """
    with contextlib.ExitStack() as stack:
        redis_url = settings.redis_url
        if redis_url == EMBEDDED:
            embedded = EmbeddedRedis(embedded_directory(settings.store, settings.redis_directory))
            embedded.start()
            stack.callback(embedded.stop)
            redis_url = embedded.url

        async def run() -> int:
            parent = Parent(settings, listeners, redis_url=redis_url, num_workers=num_workers)
            # Read by the libraries of the model and of the index when they are imported.
            os.environ.setdefault("OMP_NUM_THREADS", str(parent.threads_of_worker))
            preload_worker()
            return await parent.run()

        return asyncio.run(run())
