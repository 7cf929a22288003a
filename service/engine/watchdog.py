"""Says whether the model can answer, from a thread of its own: by real forward passes, and not by hope.

Every second in which no request did it, the watchdog has the live model encode a short history, on the model's own
thread. If that fails, or is not there in time, or the thread is gone, the service is not ready; a dead thread is
replaced at once. Being busy is no failure, however long the queue: only one piece of work that does not end is.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from service.engine.model_thread import ModelThread
from service.errors import NotReady

LOGGER = logging.getLogger(__name__)

_TICK_SECONDS = 0.2
_PROBE_EVERY_SECONDS = 1.0

Probe = Callable[[], None]


class Watchdog:
    """Looks after the model's thread.

    Args:
        thread: What it looks after.
        make_probe: A forward pass of the live model (default kind), that raises if it fails; None without a bundle.
        last_encoded: When a forward pass of a request last ended well, in ``time.monotonic()`` seconds.
        stuck_seconds: One piece of work that takes longer is stuck.
    """

    def __init__(
        self,
        thread: ModelThread,
        *,
        make_probe: Callable[[], Probe | None],
        last_encoded: Callable[[], float],
        stuck_seconds: float,
    ) -> None:
        self._thread = thread
        self._make_probe = make_probe
        self._last_encoded = last_encoded
        self._stuck_seconds = stuck_seconds
        self._problem: str | None = None
        self._last_success = -math.inf
        self._probe: Future[None] | None = None
        self._probed_at = -math.inf
        self._num_restarts = thread.num_restarts
        self._is_ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="hatstand-watchdog", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._watcher.start()

    @property
    def problem(self) -> str | None:
        """Why the model cannot answer, or None."""
        return self._problem

    @property
    def last_success(self) -> float:
        """When a forward pass last ended well, in ``time.monotonic()`` seconds; -inf before the first."""
        return max(self._last_success, self._last_encoded())

    def close(self) -> None:
        """Stops watching."""
        self._is_ending.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._is_ending.wait(_TICK_SECONDS):
            try:
                self._look(time.monotonic())
            except Exception:
                # A thread boundary: a watchdog that dies would leave the last answer standing for ever.
                LOGGER.exception("the watchdog failed")
                self._set("the watchdog failed")

    def _look(self, now: float) -> None:
        self._thread.revive()
        if self._thread.num_restarts != self._num_restarts:
            self._num_restarts, self._probe = self._thread.num_restarts, None
            self._set("the model's thread died and was started again")
            self._ask(now)
            return
        busy_seconds = self._thread.busy_seconds
        if busy_seconds > self._stuck_seconds:
            self._set(f"the model has not answered for {busy_seconds:.1f} s")
        elif self._probe is not None:
            self._hear(now)
        elif now - self.last_success >= _PROBE_EVERY_SECONDS:
            self._ask(now)
        else:
            self._set(None)

    def _ask(self, now: float) -> None:
        probe = self._make_probe()
        if probe is None:
            # Nothing to try; that there is no bundle is told elsewhere.
            self._set(None)
            return
        try:
            self._probe, self._probed_at = self._thread.submit(probe), now
        except NotReady:  # it is ending
            self._probe = None

    def _hear(self, now: float) -> None:
        """What became of the probe; it waits behind a batch that is running, and behind nothing else."""
        assert self._probe is not None
        if not self._probe.done():
            if now - self._probed_at > 2 * self._stuck_seconds:
                self._set(f"the model has not answered for {now - self._probed_at:.1f} s")
            return
        probe, self._probe = self._probe, None
        error = probe.exception()
        if error is None:
            self._last_success = now
            self._set(None)
        else:
            self._set(f"a forward pass failed: {type(error).__name__}: {error}")

    def _set(self, problem: str | None) -> None:
        before, self._problem = self._problem, problem
        if problem is not None and before is None:
            LOGGER.error("not ready: %s", problem)
        elif problem is None and before is not None:
            LOGGER.warning("ready again: the model answers")
