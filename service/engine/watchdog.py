"""Says whether the model can answer: by real forward passes, and not by hope.

While no request does it, the watchdog has the live model encode a short history, on the model's own thread: after one
second, and then ever more rarely, up to every five. If that fails, or is not there in time, the service is not ready.
Being busy is no failure, however long the queue: only one piece of work that does not end is.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future

from service.engine.model_thread import ModelThread
from service.errors import NotReady
from service.tasks import end_task

LOGGER = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.4
_FIRST_PROBE_SECONDS = 1.0
_LAST_PROBE_SECONDS = 5.0

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
        self._failure: str | None = None
        self._is_told = False
        self._last_probed = -math.inf
        self._probe: Future[None] | None = None
        self._probed_at = -math.inf
        self._pause = _FIRST_PROBE_SECONDS
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch; call it in the event loop."""
        self._task = asyncio.create_task(self._watch(), name="hatstand-watchdog")

    async def aclose(self) -> None:
        """Stops watching."""
        await end_task(self._task)

    @property
    def problem(self) -> str | None:
        """Why the model cannot answer now, or None."""
        busy_seconds = self._thread.busy_seconds
        if busy_seconds > self._stuck_seconds:
            return f"the model has not answered for {busy_seconds:.1f} s"
        waiting_seconds = 0.0 if self._probe is None else time.monotonic() - self._probed_at
        # A probe waits behind a batch that is running, and behind nothing else.
        if waiting_seconds > 2 * self._stuck_seconds:
            return f"the model has not answered for {waiting_seconds:.1f} s"
        return self._failure

    @property
    def last_success(self) -> float:
        """When a forward pass last ended well, in ``time.monotonic()`` seconds; -inf before the first."""
        return max(self._last_probed, self._last_encoded())

    async def _watch(self) -> None:
        while True:
            try:
                self._look(time.monotonic())
            except Exception:
                # A task boundary: a watchdog that ends would leave the last answer standing for ever.
                LOGGER.exception("the watchdog failed")
                self._failure = "the watchdog failed"
            self._tell()
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _look(self, now: float) -> None:
        if self._probe is not None and self._probe.done():
            self._take_result(self._probe, now)
        if self._probe is not None:
            return
        if self._last_encoded() > self._probed_at:
            self._failure, self._pause = None, _FIRST_PROBE_SECONDS
        if self._failure is not None or now - self.last_success >= self._pause:
            self._ask(now)

    def _take_result(self, probe: "Future[None]", now: float) -> None:
        self._probe = None
        error = probe.exception()
        if error is not None:
            self._failure = f"a forward pass failed: {type(error).__name__}: {error}"
            return
        self._failure, self._last_probed = None, now
        self._pause = min(2 * self._pause, _LAST_PROBE_SECONDS)

    def _ask(self, now: float) -> None:
        probe = self._make_probe()
        if probe is None:
            # Nothing to try; that there is no bundle is told elsewhere.
            self._failure = None
            return
        try:
            self._probe, self._probed_at = self._thread.submit(probe), now
        except NotReady:  # The service is ending.
            self._probe = None

    def _tell(self) -> None:
        problem = self.problem
        if problem is not None and not self._is_told:
            LOGGER.error("not ready: %s", problem)
        elif problem is None and self._is_told:
            LOGGER.warning("ready again: the model answers")
        self._is_told = problem is not None
