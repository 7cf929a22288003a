"""What is read of the running service when its metrics are asked for, and the metrics that show it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge

from model_store.state_cache import CacheCounts


@dataclass(frozen=True)
class ServiceFigures:
    """What is read from the running service when it is scraped.

    Attributes:
        is_ready: Whether ``/readyz`` answers 200.
        num_draining: Replaced bundles that requests in flight still use.
        refused: Kinds whose published bundle is not served.
        last_look: When the store last answered, in seconds since 1970.
        last_success: When a forward pass last ended well, in seconds since 1970; 0 before the first.
        thread_restarts: How often the model's thread had died.
        queue_seconds: Expected until all that waits now is done.
        available_bytes: Memory that can be had, by place (``cpu``, ``cuda``).
        state_bytes: What the models keep of users, by kind.
        state_counts: How often such a state was found, was not, and had to go, by kind; from 0 with every bundle.
    """

    is_ready: bool = False
    num_draining: int = 0
    refused: frozenset[str] = frozenset()
    last_look: float = 0.0
    last_success: float = 0.0
    thread_restarts: int = 0
    queue_seconds: float = 0.0
    available_bytes: Mapping[str, int] = field(default_factory=dict)
    state_bytes: Mapping[str, int] = field(default_factory=dict)
    state_counts: Mapping[str, CacheCounts] = field(default_factory=dict)


class ServiceGauges:
    """The metrics of ``ServiceFigures``.

    Args:
        registry: Where they are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.read: Callable[[], ServiceFigures] = ServiceFigures
        self._state_bytes = Gauge(
            "hatstand_model_state_bytes", "What the model keeps of users between requests", ("kind",), registry=registry
        )
        self._state_hits = Counter(
            "hatstand_model_state_hits", "Users whose kept state was there when wanted", ("kind",), registry=registry
        )
        self._state_misses = Counter(
            "hatstand_model_state_misses", "Users of whom no state was kept", ("kind",), registry=registry
        )
        self._state_evictions = Counter(
            "hatstand_model_state_evictions", "States dropped for want of room", ("kind",), registry=registry
        )
        self._counted_states: dict[str, CacheCounts] = {}
        self._ready = Gauge("hatstand_ready", "Whether /readyz answers 200", registry=registry)
        self._queue_seconds = Gauge(
            "hatstand_queue_seconds", "Expected until all that waits for the model is done", registry=registry
        )
        self._draining = Gauge(
            "hatstand_bundles_draining", "Replaced bundles that requests still use", registry=registry
        )
        self._refused = Gauge(
            "hatstand_bundle_refused", "The bundle that the store names is not served: 1", ("kind",), registry=registry
        )
        self._bundle_age = Gauge(
            "hatstand_bundle_age_seconds", "Since the bundle was made", ("kind",), registry=registry
        )
        self._last_look = Gauge(
            "hatstand_store_last_look_timestamp_seconds", "When the store last answered", registry=registry
        )
        self._last_success = Gauge(
            "hatstand_model_last_success_timestamp_seconds", "When a forward pass last ended well", registry=registry
        )
        self._thread_restarts = Gauge(
            "hatstand_model_thread_restarts", "How often the model's thread had died", registry=registry
        )
        self._available = Gauge(
            "hatstand_memory_available_bytes", "Memory that can be had", ("where",), registry=registry
        )

    def refresh(self, made_at: Mapping[str, float]) -> None:
        """Reads everything anew.

        Args:
            made_at: When the bundle of each kind that is served was made, in seconds since 1970.
        """
        figures, now = self.read(), time.time()
        self._ready.set(figures.is_ready)
        self._queue_seconds.set(figures.queue_seconds)
        self._draining.set(figures.num_draining)
        self._last_look.set(figures.last_look)
        self._last_success.set(figures.last_success)
        self._thread_restarts.set(figures.thread_restarts)
        refused = {kind: float(kind in figures.refused) for kind in (*made_at, *figures.refused)}
        for gauge, values in (
            (self._refused, refused),
            (self._bundle_age, {kind: now - seconds for kind, seconds in made_at.items()}),
            (self._available, figures.available_bytes),
            (self._state_bytes, figures.state_bytes),
        ):
            gauge.clear()
            for label, value in values.items():
                gauge.labels(label).set(value)
        for kind, counts in figures.state_counts.items():
            self._count_states(kind, counts)

    def _count_states(self, kind: str, counts: CacheCounts) -> None:
        before = self._counted_states.get(kind, CacheCounts())
        if counts.hits < before.hits or counts.misses < before.misses or counts.evictions < before.evictions:
            before = CacheCounts()  # another bundle's, from 0 again
        self._state_hits.labels(kind).inc(counts.hits - before.hits)
        self._state_misses.labels(kind).inc(counts.misses - before.misses)
        self._state_evictions.labels(kind).inc(counts.evictions - before.evictions)
        self._counted_states[kind] = counts
