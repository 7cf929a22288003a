"""Reports events in batches from a background thread, so that nobody waits for the service to store them."""

import atexit
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tenacity import RetryCallState, Retrying, retry_if_exception

from hatstand_client.answers import EventsAnswer
from hatstand_client.client import Client
from hatstand_client.errors import DeadlineExceeded, HatstandError, InvalidRequest, QueueFull
from hatstand_client.inputs import Event
from hatstand_client.retries import Retries, is_passing, seconds_to_wait
from hatstand_client.spool import Spool

LOGGER = logging.getLogger(__name__)

# The sender itself tries again: an attempt must not outlast closing.
_ONCE = Retries(max_attempts=1)
_TOO_LARGE = 413
_NONE_ACCEPTED = "no_event_accepted"


@dataclass(frozen=True)
class UndeliveredEvent:
    """An event that the service does not have, and why."""

    event: Event
    reason: str


@dataclass(frozen=True)
class EventCounts:
    """What became of the events that were handed to ``send``, and of those that were in the spool file.

    Attributes:
        waiting: Not sent yet, or on their way.
        accepted: Stored.
        duplicates: Stored before.
        spooled: Written to the spool file.
        undelivered: Told to ``on_undelivered``.
    """

    waiting: int = 0
    accepted: int = 0
    duplicates: int = 0
    spooled: int = 0
    undelivered: int = 0


def _log_undelivered(undelivered: Sequence[UndeliveredEvent]) -> None:
    for one in undelivered:
        LOGGER.error("event %s was not delivered: %s", one.event.event_id, one.reason)


def _is_passing(error: BaseException) -> bool:
    return is_passing(error) or isinstance(error, DeadlineExceeded)


class EventSender:
    """Sends events in batches from a background thread; threads and event loops may share one.

    While the service cannot be reached, the sender tries again, with growing
    pauses, until it is closed. Closing (or leaving the ``with`` block, or the end of the interpreter) delivers what
    waits. What cannot be delivered then goes to the spool file, if there is one, and is delivered by the next sender
    that has the same file; without a file ``on_undelivered`` is told. So is it of events that the service refuses.
    A process that is killed, or ends by ``os._exit`` or an unhandled signal, loses what waits. Make one sender in each
    process: after a fork the thread is missing.

    Args:
        client: For the requests; it stays open.
        max_batch: Events of one request, at most 1,000.
        flush_seconds: An event waits so long at most for others to go with it.
        max_waiting: Events that may wait.
        close_seconds: At the end of the interpreter, delivery is tried for so long.
        spool: A file for what cannot be delivered; each process needs one of its own.
        on_undelivered: Is told of events that are given up, in the sender's thread; by default each is logged.
    """

    def __init__(
        self,
        client: Client,
        *,
        max_batch: int = 500,
        flush_seconds: float = 1.0,
        max_waiting: int = 100_000,
        close_seconds: float = 10.0,
        spool: Path | None = None,
        on_undelivered: Callable[[Sequence[UndeliveredEvent]], None] = _log_undelivered,
    ) -> None:
        self._client = client
        self._max_batch = max_batch
        self._flush_seconds = flush_seconds
        self._close_seconds = close_seconds
        self._spool = None if spool is None else Spool(spool)
        self._on_undelivered = on_undelivered
        # None ends the thread.
        self._waiting: queue.Queue[Event | None] = queue.Queue()
        self._max_waiting = max_waiting
        self._counts = EventCounts()
        self._lock = threading.Lock()
        self._is_closed = False
        self._closing = threading.Event()
        self._ends_at = math.inf
        self._process_id = os.getpid()
        self._thread = threading.Thread(target=self._run, name="hatstand-events", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counts(self) -> EventCounts:
        """What became of the events so far."""
        return self._counts

    def send(self, event: Event) -> None:
        """Hands over an event; never waits.

        Raises:
            QueueFull: Too many events wait; this one is not taken.
            HatstandError: The sender is closed.
        """
        if os.getpid() != self._process_id:
            raise HatstandError("this event sender is of another process; make one after the fork")
        with self._lock:
            if self._is_closed:
                raise HatstandError("the event sender is closed")
            if self._counts.waiting >= self._max_waiting:
                raise QueueFull(f"{self._max_waiting} events wait to be sent")
            self._counts = replace(self._counts, waiting=self._counts.waiting + 1)
            self._waiting.put(event)

    def close(self, timeout_seconds: float | None = None) -> None:
        """Delivers what waits and ends the thread; closing twice is harmless.

        Args:
            timeout_seconds: Delivery is tried for so long, and an attempt that has begun is waited for; default:
                ``close_seconds``.
        """
        atexit.unregister(self.close)
        if os.getpid() != self._process_id:
            return
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._ends_at = time.monotonic() + (self._close_seconds if timeout_seconds is None else timeout_seconds)
                self._waiting.put(None)
                self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        self._deliver_spooled()
        is_last = False
        while not is_last:
            batch, is_last = self._next_batch()
            if batch:
                self._deliver(batch)

    def _deliver_spooled(self) -> None:
        """Delivers what the sender before has left; the file stays unless all of it is delivered."""
        if self._spool is None:
            return
        has_failed = False
        for batch in self._spool.batches(self._max_batch):
            self._count(waiting=len(batch))
            for events, error in self._failures(batch):
                has_failed = True
                self._count(waiting=-len(events))
                if _is_passing(error):
                    return
        if not has_failed:
            self._spool.clear()

    def _next_batch(self) -> tuple[list[Event], bool]:
        """Waits for an event and for those that come soon after; and whether it is the last batch."""
        batch: list[Event] = []
        due_at = math.inf
        while len(batch) < self._max_batch:
            try:
                event = self._waiting.get(timeout=None if not batch else max(due_at - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if event is None:
                return batch, True
            if not batch:
                due_at = time.monotonic() + self._flush_seconds
            batch.append(event)
        return batch, False

    def _deliver(self, batch: Sequence[Event]) -> None:
        for events, error in self._failures(batch):
            if isinstance(error, InvalidRequest) and error.code == _NONE_ACCEPTED:
                # kept for later, they would be refused again
                reasons = [f"{one['code']}: {one['detail']}" for one in error.errors]
                self._give_up([UndeliveredEvent(*one) for one in zip(events, reasons, strict=True)])
            else:
                self._keep(events, str(error) or repr(error))

    def _keep(self, events: Sequence[Event], reason: str) -> None:
        """Writes events to the spool file, or gives them up."""
        if self._spool is not None:
            try:
                self._spool.keep(events)
            except OSError as error:
                reason = f"{reason}; and the spool file cannot be written: {error}"
            else:
                self._count(waiting=-len(events), spooled=len(events))
                return
        self._give_up([UndeliveredEvent(event, reason) for event in events])

    def _failures(self, batch: Sequence[Event]) -> list[tuple[Sequence[Event], Exception]]:
        """Sends a batch until it arrives, or cannot; which events did not arrive, and why."""
        attempts = Retrying(
            retry=retry_if_exception(_is_passing),
            wait=seconds_to_wait,
            stop=self._is_over,
            sleep=self._pause,
            reraise=True,
        )
        try:
            self._note(batch, attempts(self._client.report_events, batch, retries=_ONCE))
        except Exception as error:  # whatever it is must not end the thread, or lose the events
            if isinstance(error, InvalidRequest) and error.status == _TOO_LARGE and len(batch) > 1:
                middle = len(batch) // 2
                return [*self._failures(batch[:middle]), *self._failures(batch[middle:])]
            return [(batch, error)]
        return []

    def _note(self, batch: Sequence[Event], answer: EventsAnswer) -> None:
        arrived = answer.accepted + answer.duplicates
        self._count(waiting=-arrived, accepted=answer.accepted, duplicates=answer.duplicates)
        if answer.rejected:
            self._give_up([UndeliveredEvent(batch[one.index], f"{one.code}: {one.detail}") for one in answer.rejected])

    def _give_up(self, undelivered: Sequence[UndeliveredEvent]) -> None:
        self._count(waiting=-len(undelivered), undelivered=len(undelivered))
        try:
            self._on_undelivered(undelivered)
        except Exception:  # somebody else's code must not end the thread
            LOGGER.exception("on_undelivered failed for %d events", len(undelivered))

    def _is_over(self, state: RetryCallState) -> bool:
        """No further attempt once closing has taken its time."""
        return time.monotonic() + state.upcoming_sleep >= self._ends_at

    def _pause(self, seconds: float) -> None:
        """Waits between two attempts; closing cuts the first pause short."""
        if self._closing.is_set():
            time.sleep(seconds)
        else:
            self._closing.wait(seconds)

    def _count(self, **changes: int) -> None:
        with self._lock:
            now = {name: getattr(self._counts, name) + change for name, change in changes.items()}
            self._counts = replace(self._counts, **now)
