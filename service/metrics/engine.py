"""The model: its queue, its batches, what it keeps of users, the live bundles; and whether all parts are well."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from model_store.artifacts.manifest import BundleManifest
from model_store.encoding import CacheCounts
from service.metrics.family import SECONDS, Family

_USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class ServiceFigures:
    """What is read from the running service when it is scraped.

    Attributes:
        is_ready: Whether ``/readyz`` answers 200.
        num_draining: Replaced bundles that requests in flight still use.
        refused: Kinds whose published bundle is not served.
        last_look: When the store last answered, in seconds since 1970.
        last_success: When a forward pass last ended well, in seconds since 1970; 0 before the first.
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
    queue_seconds: float = 0.0
    available_bytes: Mapping[str, int] = field(default_factory=dict)
    state_bytes: Mapping[str, int] = field(default_factory=dict)
    state_counts: Mapping[str, CacheCounts] = field(default_factory=dict)


class EngineMetrics(Family):
    """The model: its queue, its batches, what it keeps of users, the live bundles; and whether all parts are well."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._batch_users = Histogram(
            "hatstand_batch_users", "Users in one forward pass", buckets=_USERS, registry=registry
        )
        self._batch_seconds = Histogram(
            "hatstand_batch_duration_seconds", "One forward pass", buckets=SECONDS, registry=registry
        )
        self._queue_wait = Histogram(
            "hatstand_queue_wait_seconds", "From asking the model to its turn", buckets=SECONDS, registry=registry
        )
        self._shed = Counter(
            "hatstand_requests_shed", "Refused by the model's queue, or dropped unrun", ("reason",), registry=registry
        )
        self._loop_lag = Histogram(
            "hatstand_event_loop_lag_seconds",
            "How much later than asked the event loop wakes up",
            buckets=SECONDS,
            registry=registry,
        )
        self._queue_users = Gauge("hatstand_queue_users", "Requests waiting for the model", registry=registry)
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
        self._read_figures: Callable[[], ServiceFigures] = ServiceFigures
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
        self._load_seconds = Gauge(
            "hatstand_bundle_load_seconds",
            "The last load, from asking to the first answer",
            ("kind",),
            registry=registry,
        )
        self._last_look = Gauge(
            "hatstand_store_last_look_timestamp_seconds", "When the store last answered", registry=registry
        )
        self._last_success = Gauge(
            "hatstand_model_last_success_timestamp_seconds", "When a forward pass last ended well", registry=registry
        )
        self._available = Gauge(
            "hatstand_memory_available_bytes", "Memory that can be had", ("where",), registry=registry
        )
        self._made_at: dict[str, float] = {}
        self._history_up = Gauge(
            "hatstand_history_store_up", "Whether the history store answered last", registry=registry
        )
        self._swaps = Counter("hatstand_bundle_swaps", "Reloads of the live bundles", ("result",), registry=registry)
        self._bundle_info = Gauge(
            "hatstand_bundle_info", "Which bundle answers: 1", ("kind", "bundle", "model"), registry=registry
        )
        self._bundle_items = Gauge("hatstand_bundle_items", "Items in the catalogue", ("kind",), registry=registry)
        self._bundle_recall = Gauge(
            "hatstand_bundle_recall_ratio",
            "Recall of the index against exact search",
            ("kind",),
            registry=registry,
        )

    def watch_queue(self, num_waiting: Callable[[], int]) -> None:
        """Reads the queue's length when scraped."""
        self._queue_users.set_function(num_waiting)

    def watch_service(self, figures: Callable[[], ServiceFigures]) -> None:
        """Reads what the running service knows when scraped."""
        self._read_figures = figures

    def batch_ran(self, *, num_users: int, seconds: float) -> None:
        """One forward pass is done."""
        self._batch_users.observe(num_users)
        self._batch_seconds.observe(seconds)

    def request_waited(self, seconds: float) -> None:
        """A request's turn at the model came after so long."""
        self._queue_wait.observe(seconds)

    def request_shed(self, reason: str) -> None:
        """A request was refused by the model's queue, or dropped unrun."""
        self._shed.labels(reason).inc()

    def history_store_answered(self, is_up: bool) -> None:
        """Whether the history store answered."""
        self._history_up.set(is_up)

    def event_loop_lagged(self, seconds: float) -> None:
        """The event loop woke up so much later than asked."""
        self._loop_lag.observe(seconds)

    def bundle_loaded(self, kind: str, seconds: float) -> None:
        """A bundle was loaded, warmed and swapped in."""
        self._swaps.labels("loaded").inc()
        self._load_seconds.labels(kind).set(seconds)

    def bundle_refused(self, kind: str | None) -> None:
        """A bundle was refused; without a kind, the store's live pointer could not be read."""
        self._swaps.labels("refused" if kind else "no_pointer").inc()

    def bundles_are(self, manifests: Mapping[str, BundleManifest]) -> None:
        """These are live now, by kind of model."""
        for gauge in (self._bundle_info, self._bundle_items, self._bundle_recall):
            gauge.clear()
        self._made_at = {}
        for kind, manifest in manifests.items():
            self._bundle_info.labels(kind, manifest.bundle_id, manifest.model_id).set(1)
            self._bundle_items.labels(kind).set(manifest.num_items)
            self._bundle_recall.labels(kind).set(manifest.index_recall)
            self._made_at[kind] = manifest.created_at.timestamp()

    def _count_states(self, kind: str, counts: CacheCounts) -> None:
        before = self._counted_states.get(kind, CacheCounts())
        if counts.hits < before.hits or counts.misses < before.misses or counts.evictions < before.evictions:
            before = CacheCounts()  # another bundle's, from 0 again
        self._state_hits.labels(kind).inc(counts.hits - before.hits)
        self._state_misses.labels(kind).inc(counts.misses - before.misses)
        self._state_evictions.labels(kind).inc(counts.evictions - before.evictions)
        self._counted_states[kind] = counts

    def refresh(self) -> None:
        """Reads what is read when scraped."""
        figures, now = self._read_figures(), time.time()
        self._ready.set(figures.is_ready)
        self._queue_seconds.set(figures.queue_seconds)
        self._draining.set(figures.num_draining)
        self._last_look.set(figures.last_look)
        self._last_success.set(figures.last_success)
        refused = {kind: float(kind in figures.refused) for kind in (*self._made_at, *figures.refused)}
        for gauge, values in (
            (self._refused, refused),
            (self._bundle_age, {kind: now - made_at for kind, made_at in self._made_at.items()}),
            (self._available, figures.available_bytes),
            (self._state_bytes, figures.state_bytes),
        ):
            gauge.clear()
            for label, value in values.items():
                gauge.labels(label).set(value)
        for kind, counts in figures.state_counts.items():
            self._count_states(kind, counts)
