"""The one thread that runs the model, and how long its present piece of work has been running.

A thread that is stuck cannot be ended in Python; whoever looks after the service sees since when. The process ends
without waiting for such a thread (``service.workers.alone``).
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from service.engine.turns import short_turns
from service.errors import ModelUnavailable, NotReady

T = TypeVar("T")

THREAD_NAME = "hatstand-model"


class ModelThread:
    """Runs work in the order in which it was handed over, one piece at a time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=THREAD_NAME)
        self._started_at: float | None = None

    @property
    def busy_seconds(self) -> float:
        """How long the present piece of work has been running; 0 where there is none."""
        started_at = self._started_at
        return 0.0 if started_at is None else max(time.monotonic() - started_at, 0.0)

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Hands over a piece of work.

        Returns:
            What it will return or raise; ModelUnavailable in place of what would end a thread or the event loop.

        Raises:
            NotReady: The thread was closed.
        """
        try:
            return self._executor.submit(self._run, work)
        except RuntimeError as error:
            raise NotReady("the service is ending") from error

    def close(self, timeout_seconds: float) -> bool:
        """Takes no more work, and waits until everything handed over is done.

        Returns:
            False if the thread was still at work after the timeout; it then ends with the process.
        """
        try:
            last = self._executor.submit(time.monotonic)
        except RuntimeError:  # closed before
            return self._started_at is None
        self._executor.shutdown(wait=False)
        return not wait([last], timeout_seconds).not_done

    def _run(self, work: Callable[[], T]) -> T:
        self._started_at = time.monotonic()
        try:
            with short_turns():
                return work()
        except Exception:
            raise
        except BaseException as error:
            raise ModelUnavailable(f"the model's work ended with {type(error).__name__}") from error
        finally:
            # Before the answer: whoever gets the answer may ask again at once.
            self._started_at = None
