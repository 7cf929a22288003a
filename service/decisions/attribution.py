"""Counts which answers lead to events: by type of event, and by who made the answer. Beside the requests."""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from service.decisions.background import BackgroundQueue
from service.decisions.codec import decode
from service.decisions.store import DecisionStore
from service.errors import HistoryUnavailable
from service.people.history_store import Event

Unattributed = Literal["unknown_id", "queue_full", "unavailable"]

OTHER = "other"
_NO_ARM = "none"
_MAX_WAITING = 10_000
_AT_ONCE = 256
_LOOKUPS_AT_ONCE = 16
# The record of an answer is written after the answer: an event that comes right after it finds it a little later.
_DELAY_SECONDS = 0.25
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Attribution:
    """What led to an event; of few values each, as they become labels.

    Attributes:
        type: Of the event, or ``other``.
        source: Which step made the answer.
        kind: Of the model.
        arm: Of the experiment, or ``none``.
    """

    type: str
    source: str
    kind: str
    arm: str


class AttributionObserver(Protocol):
    """Is told which answers led to events, for the metrics."""

    def events_attributed(self, *, type: str, source: str, kind: str, arm: str, count: int) -> None:
        """So many events came of such an answer."""
        ...

    def events_unattributed(self, reason: Unattributed, count: int) -> None:
        """So many events named an answer of which nothing is known."""
        ...


class AttributionCounter:
    """Looks up the answers that events name. For the event loop.

    Args:
        decisions: Has the records of answers; None: all are unknown.
        observer: Is told.
        types: Types of events that are told apart.
    """

    def __init__(
        self, decisions: DecisionStore | None, observer: AttributionObserver, *, types: Collection[str]
    ) -> None:
        self._decisions = decisions
        self._observer = observer
        self._types = frozenset(types)
        self._queue: BackgroundQueue[tuple[str, str]] = BackgroundQueue(  # (recommendation id, type)
            "attribution",
            self._count_all,
            max_waiting=_MAX_WAITING,
            at_once=_AT_ONCE,
            delay_seconds=_DELAY_SECONDS,
        )

    def start(self) -> None:
        """Begins to count."""
        self._queue.start()

    def note(self, events: Sequence[Event]) -> None:
        """Takes newly accepted events; never waits. Those that name no answer do not count."""
        for event in events:
            if event.recommendation_id is not None:
                kind = event.type if event.type in self._types else OTHER
                if not self._queue.put((event.recommendation_id, kind)):
                    self._observer.events_unattributed("queue_full", 1)

    async def aclose(self) -> None:
        """Counts what waits, if that does not take long, and ends."""
        await self._queue.aclose(_CLOSE_SECONDS)

    async def _count_all(self, waiting: list[tuple[str, str]]) -> None:
        types: dict[str, Counter[str]] = {}
        for recommendation_id, kind in waiting:
            types.setdefault(recommendation_id, Counter())[kind] += 1
        slots = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

        async def count(recommendation_id: str, counts: "Counter[str]") -> None:
            async with slots:
                await self._count(recommendation_id, counts)

        await asyncio.gather(*(count(one, counts) for one, counts in types.items()))

    async def _count(self, recommendation_id: str, counts: "Counter[str]") -> None:
        try:
            packed = None if self._decisions is None else await self._decisions.get(recommendation_id)
        except HistoryUnavailable:
            self._observer.events_unattributed("unavailable", counts.total())
            return
        if packed is None:
            self._observer.events_unattributed("unknown_id", counts.total())
            return
        document = decode(packed)
        experiment = document["experiment"]
        for kind, count in counts.items():
            attribution = Attribution(
                type=kind,
                source=document["source"],
                kind=document["versions"]["kind"],
                arm=_NO_ARM if experiment is None else experiment["arm"],
            )
            self._observer.events_attributed(**asdict(attribution), count=count)
