"""Whether the service can answer, from what is watched all the time; so a probe is answered at once."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from service.engine.live_bundles import LiveBundles
from service.engine.model_thread import ModelThread
from service.engine.watchdog import Watchdog
from service.errors import HistoryUnavailable
from service.tasks import end_task

LOGGER = logging.getLogger(__name__)

Status = Literal["ready", "degraded", "not_ready"]

PING_EVERY_SECONDS = 0.9
PING_TIMEOUT_SECONDS = 1.0


class _Pingable(Protocol):
    async def ping(self) -> None:
        """Returns when it answers; raises HistoryUnavailable when it does not."""
        ...


class HealthObserver(Protocol):
    """Is told what is seen, for the metrics."""

    def history_store_answered(self, is_up: bool) -> None:
        """Whether the history store answered."""
        ...

    def event_loop_lagged(self, seconds: float) -> None:
        """How much later than asked the event loop woke up."""
        ...


@dataclass(frozen=True)
class HealthReport:
    """What ``/readyz`` says.

    Attributes:
        status: ``degraded`` answers, but with less than everything.
        checks: ``ok``, or what is wrong, by part.
        refused: What the store names and is not served, by kind.
    """

    status: Status
    checks: Mapping[str, str]
    refused: Mapping[str, Mapping[str, Any]]


class Health:
    """Looks after the parts.

    Args:
        bundles: What is live.
        thread: The model's.
        watchdog: Of the model.
        histories: Is pinged.
        observer: Is told what is seen.
        is_history_required: Without the history store the service is not ready, rather than degraded.
        hung_seconds: Stuck for so long, the process should be ended; 0 = never.
    """

    def __init__(
        self,
        *,
        bundles: LiveBundles,
        thread: ModelThread,
        watchdog: Watchdog,
        histories: _Pingable,
        observer: HealthObserver,
        is_history_required: bool,
        hung_seconds: float,
    ) -> None:
        self._bundles = bundles
        self._thread = thread
        self._watchdog = watchdog
        self._histories = histories
        self._observer = observer
        self._is_history_required = is_history_required
        self._hung_seconds = hung_seconds
        self._history_problem: str | None = None
        self._ping: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_draining = False

    async def start(self) -> None:
        """Begins to look; everything has been looked at once when it returns."""
        await self.look_at_histories()
        self._task = asyncio.create_task(self._run(), name="hatstand-health")

    async def aclose(self) -> None:
        """Stops looking."""
        for task in (self._task, self._ping):
            await end_task(task)

    def begin_draining(self) -> None:
        """From now on not ready: the service is about to end."""
        self._is_draining = True

    @property
    def history_problem(self) -> str | None:
        """Why the history store does not answer, or None."""
        return self._history_problem

    async def look_at_histories(self) -> str | None:
        """Pings the history store, or waits for the ping that is on its way; why it does not answer, or None."""
        if self._ping is None or self._ping.done():
            self._ping = asyncio.create_task(self._look_at_histories(), name="hatstand-ping")
        await asyncio.shield(self._ping)
        return self._history_problem

    def hung(self) -> str | None:
        """Why only ending the process helps, or None."""
        busy_seconds = self._thread.busy_seconds
        if 0 < self._hung_seconds < busy_seconds:
            return f"the model has not answered for {busy_seconds:.0f} s"
        return None

    def report(self) -> HealthReport:
        """What is known now."""
        live, model_problem = self._bundles.live.bundles, self._watchdog.problem
        refused = {
            kind: {
                "bundle": refusal.bundle_id,
                "reason": refusal.reason,
                "attempts": refusal.attempts,
                "seconds_until_retry": max(round(refusal.retry_at - time.monotonic()), 0),
            }
            for kind, refusal in self._bundles.refused.items()
        }
        checks = {
            "bundle": "ok" if live else (self._bundles.problem or f"no bundle is live in {self._bundles.store_name}"),
            "store": self._bundles.pointer_problem or "ok",
            "model_worker": model_problem or "ok",
            "history_store": self._history_problem or "ok",
        }
        if self._is_draining:
            checks["service"] = "ending"
        is_able = bool(live) and not model_problem and not self._is_draining
        if self._history_problem and self._is_history_required:
            is_able = False
        is_whole = not (self._history_problem or refused or self._bundles.pointer_problem)
        return HealthReport("not_ready" if not is_able else "ready" if is_whole else "degraded", checks, refused)

    async def _look_at_histories(self) -> None:
        problem = None
        try:
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                await self._histories.ping()
        except HistoryUnavailable as error:
            problem = error.detail
        except TimeoutError:
            problem = f"the history store did not answer a ping within {PING_TIMEOUT_SECONDS:.0f} s"
        if (problem is None) != (self._history_problem is None):
            LOGGER.warning("the history store %s", "answers again" if problem is None else "does not answer")
        self._history_problem = problem
        self._observer.history_store_answered(problem is None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            await asyncio.sleep(PING_EVERY_SECONDS)
            self._observer.event_loop_lagged(max(loop.time() - asked - PING_EVERY_SECONDS, 0.0))
            try:
                await self.look_at_histories()
            except Exception:
                # A task boundary: whatever happened, the next look comes.
                LOGGER.exception("looking at the history store failed")
