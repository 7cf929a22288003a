"""The one thread that runs the model; it can be looked at from outside, and is replaced when it dies.

An executor of the standard library is neither: it does not know that its thread is gone, and its threads hold a
process back from ending. A thread that is stuck cannot be ended in Python; whoever looks after it sees since when.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from service.engine.turns import short_turns
from service.errors import ModelUnavailable, NotReady

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

THREAD_NAME = "hatstand-model"


@dataclass(slots=True)
class _Job:
    work: Callable[[], Any]
    answer: "Future[Any]"
    started_at: float = 0.0


class ModelThread:
    """Runs work in the order in which it was handed over, one piece at a time."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # Few: the batcher hands over one batch at a time, the watchdog one probe.
        self._unanswered: set[Future[Any]] = set()
        self._running: _Job | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._num_restarts = 0

    def start(self) -> None:
        """Begins to work."""
        with self._lock:
            self._start()

    @property
    def num_restarts(self) -> int:
        """How often a dead thread was replaced."""
        return self._num_restarts

    @property
    def is_alive(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def busy_seconds(self) -> float:
        """How long the present piece of work has been running; 0 where there is none."""
        job = self._running
        return 0.0 if job is None else max(time.monotonic() - job.started_at, 0.0)

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Hands over a piece of work.

        Returns:
            What it will return or raise; ModelUnavailable if the thread dies of it.

        Raises:
            NotReady: The thread was closed.
        """
        if not self.is_alive:
            self.revive()
        answer: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise NotReady("the service is ending")
            self._unanswered.add(answer)
            answer.add_done_callback(self._unanswered.discard)
            self._jobs.put(_Job(work, answer))
        return answer

    def revive(self) -> bool:
        """Replaces the thread if it is dead. What it was doing fails; what waited for it is done by the next one.

        Returns:
            Whether it was dead.
        """
        with self._lock:
            if self.is_alive or self._is_closed:
                return False
            waiting = _drained(self._jobs)
            lost = self._unanswered - {job.answer for job in waiting}
            self._jobs, self._running = SimpleQueue(), None
            for job in waiting:
                self._jobs.put(job)
            self._num_restarts += 1
            self._start()
        LOGGER.critical("the model's thread had died and was started again")
        for answer in lost:
            with contextlib.suppress(InvalidStateError):
                answer.set_exception(ModelUnavailable("the model's thread died; it was started again"))
        return True

    def close(self, timeout_seconds: float) -> bool:
        """Ends the thread once everything handed over is done.

        Returns:
            False if it was still at work after the timeout; it then ends with the process.
        """
        with self._lock:
            self._is_closed = True
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        return not self.is_alive

    def _start(self) -> None:
        # A daemon, so that a forward pass that never returns does not keep the process from ending.
        self._thread = threading.Thread(target=self._main, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        jobs = self._jobs
        try:
            while (job := jobs.get()) is not None:
                self._run(job)
                # or the last answer, and the bundle that it came from, would live until the next one
                del job
        except BaseException as error:
            # The end of a thread; the watchdog starts another, and tells whoever waits.
            LOGGER.critical("the model's thread dies of %s", type(error).__name__)

    def _run(self, job: _Job) -> None:
        if not job.answer.set_running_or_notify_cancel():
            return
        job.started_at = time.monotonic()
        self._running = job
        try:
            with short_turns():
                value = job.work()
        except Exception as error:
            # A thread boundary: whoever waits must be told, whatever it was.
            self._running = None
            job.answer.set_exception(error)
        else:
            # before the answer: whoever gets it may ask again at once
            self._running = None
            job.answer.set_result(value)


def _drained(jobs: "SimpleQueue[_Job | None]") -> list[_Job]:
    waiting: list[_Job] = []
    with contextlib.suppress(Empty):
        while True:
            job = jobs.get_nowait()
            if job is not None:
                waiting.append(job)
    return waiting
