"""Events, what is remembered of people, and what is written down of answers."""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.metrics.family import Family

# It is mostly the user's pause: a page that is built at once, a reader, somebody who comes back.
_VISIBILITY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 86_400.0)


class PeopleMetrics(Family):
    """Events, what is remembered of people, and what is written down of answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._last_known_bytes = Gauge(
            "hatstand_last_known_bytes",
            "What is remembered of users for when the model or the history store does not answer",
            ("what",),
            registry=registry,
        )
        self._hidden_items = Gauge("hatstand_hidden_items", "Items that operators have hidden", registry=registry)
        self._events = Counter("hatstand_events", "Reported events", ("result",), registry=registry)
        self._attributed = Counter(
            "hatstand_attributed_events",
            "Accepted events that name the answer which led to them, by what made that answer",
            ("type", "source", "kind", "arm"),
            registry=registry,
        )
        self._unattributed = Counter(
            "hatstand_unattributed_events",
            "Accepted events that name an answer of which nothing is known, and why",
            ("reason",),
            registry=registry,
        )
        self._visibility_seconds = Histogram(
            "hatstand_event_visibility_seconds",
            "From the acknowledgement of an event to the end of the first answer that counts it in, by this process",
            buckets=_VISIBILITY_SECONDS,
            registry=registry,
        )
        self._decision_records = Counter(
            "hatstand_decision_records", "Records of answers, by what became of them", ("result",), registry=registry
        )
        self._log_entries = Gauge(
            "hatstand_event_log_entries", "Entries of the event log that were not trimmed yet", registry=registry
        )
        self._log_fullest = Gauge(
            "hatstand_event_log_fullest_ratio",
            "How full the fullest part of the event log is; at 1 its events are refused",
            registry=registry,
        )
        self._log_oldest = Gauge(
            "hatstand_event_log_oldest_age_seconds", "Age of the oldest entry of the event log", registry=registry
        )

    def watch_last_known(self, kept_bytes: Callable[[], Mapping[str, int]]) -> None:
        """Reads how much is remembered of users, by what it is, when scraped."""
        for what in kept_bytes():
            self._last_known_bytes.labels(what).set_function(partial(_read, kept_bytes, what))

    def watch_hidden(self, num_hidden: Callable[[], int]) -> None:
        """Reads how many items are hidden, as last known, when scraped."""
        self._hidden_items.set_function(num_hidden)

    def events_handled(self, *, accepted: int, duplicates: int, rejected: int) -> None:
        """One batch of events was taken."""
        for result, count in (("accepted", accepted), ("duplicate", duplicates), ("rejected", rejected)):
            self._child(self._events, result).inc(count)

    def event_became_visible(self, seconds: float) -> None:
        """An answer counted in what was acknowledged so long before."""
        self._visibility_seconds.observe(seconds)

    def events_attributed(self, *, type: str, source: str, kind: str, arm: str, count: int) -> None:
        """So many events of a type came of answers from such a source, by such a kind of model, in such an arm."""
        self._attributed.labels(type, source, kind, arm).inc(count)

    def events_unattributed(self, reason: str, count: int) -> None:
        """So many events named an answer of which nothing is known."""
        self._unattributed.labels(reason).inc(count)

    def decisions_recorded(self, result: str, count: int) -> None:
        """So many records of answers ended like this."""
        self._child(self._decision_records, result).inc(count)

    def event_log_read(self, *, num_entries: int, fullest: float, oldest_seconds: float) -> None:
        """The event log was looked at: its length, the share of its limit, and the age of its oldest entry."""
        self._log_entries.set(num_entries)
        self._log_fullest.set(fullest)
        self._log_oldest.set(oldest_seconds)


def _read(figures: Callable[[], Mapping[str, int]], what: str) -> float:
    return figures()[what]
