"""Writes decision records beside the requests. What does not fit into the queue is dropped and counted."""

import asyncio
from typing import Literal, Protocol

from service.decisions.background import BackgroundQueue
from service.decisions.codec import record_of
from service.decisions.record import Decision
from service.decisions.store import DecisionStore
from service.errors import HistoryUnavailable

Result = Literal["kept", "erased", "too_large", "queue_full", "unavailable"]

_MAX_WAITING = 1_000
# Records are written together, and never take much of the event loop's time: beyond about 600 a second they wait, and
# then are dropped.
_AT_ONCE = 32
_DELAY_SECONDS = 0.05
_CLOSE_SECONDS = 2.0


class DecisionObserver(Protocol):
    """Is told what became of records, for the metrics."""

    def decisions_recorded(self, result: Result, count: int) -> None:
        """So many records ended like this."""
        ...


class DecisionWriter:
    """A DecisionSink that keeps records in a store. For the event loop.

    Args:
        store: Where they go.
        observer: Is told.
        max_waiting: Beyond so many waiting ones, further ones are dropped.
    """

    def __init__(self, store: DecisionStore, observer: DecisionObserver, *, max_waiting: int = _MAX_WAITING) -> None:
        self._store = store
        self._observer = observer
        self._queue = BackgroundQueue(
            "the writer of decision records",
            self._write,
            max_waiting=max_waiting,
            at_once=_AT_ONCE,
            delay_seconds=_DELAY_SECONDS,
        )

    def start(self) -> None:
        """Begins to write."""
        self._queue.start()

    def record(self, decision: Decision) -> None:
        """Takes a decision to be written soon, or drops it if too many wait."""
        if not self._queue.put(decision):
            self._observer.decisions_recorded("queue_full", 1)

    async def aclose(self) -> None:
        """Writes what waits, if that does not take long, and ends."""
        await self._queue.aclose(_CLOSE_SECONDS)

    async def _write(self, decisions: list[Decision]) -> None:
        # In a thread: a document with a long history takes milliseconds to compress.
        made = await asyncio.to_thread(lambda: [record_of(decision) for decision in decisions])
        records = [record for record in made if record is not None]
        results: list[Result] = ["too_large"] * (len(made) - len(records))
        try:
            results += ["kept" if is_kept else "erased" for is_kept in await self._store.put(records)]
        except HistoryUnavailable:
            results += ["unavailable"] * len(records)
        for result in sorted(set(results)):
            self._observer.decisions_recorded(result, results.count(result))
