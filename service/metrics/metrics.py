"""What Prometheus scrapes.

One registry per application, so that two in a process do not share numbers. Labels are bounded: no user,
item or free text ever becomes one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from model_store.artifacts.manifest import BundleManifest
from model_store.encoding import CacheCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# It is mostly the user's pause: a page that is built at once, a reader, somebody who comes back.
_VISIBILITY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 86_400.0)
M = TypeVar("M", Counter, Histogram)

_NO_ARM = "none"
_NO_SCENARIO = "none"
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


class Metrics:
    """All metrics of one application."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._http_seconds = Histogram(
            "hatstand_http_request_duration_seconds",
            "From the first byte of a request to the last of its answer",
            ("route", "method", "status"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "hatstand_stage_duration_seconds",
            "Of one recommendation: history, queue, encode, search, rank",
            ("stage", "kind", "mode"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._recommendations = Counter(
            "hatstand_recommendations",
            "Answers, by where they came from, and by the arm of the experiment that the user is in",
            ("source", "kind", "mode", "arm"),
            registry=registry,
        )
        self._fallbacks = Counter("hatstand_fallbacks", "Why an answer is a fallback", ("reason",), registry=registry)
        self._ladder_steps = Counter(
            "hatstand_ladder_steps",
            "Steps of the fallback ladder that were due: the one that answered, and why those before it did not",
            ("step", "reason"),
            registry=registry,
        )
        self._last_known_bytes = Gauge(
            "hatstand_last_known_bytes",
            "What is remembered of users for when the model or the history store does not answer",
            ("what",),
            registry=registry,
        )
        self._plans = Counter(
            "hatstand_retrieval_plans", "How candidates were looked for in the index", ("plan",), registry=registry
        )
        self._filtered = Counter(
            "hatstand_candidates_filtered",
            "Items that an answer could not have, by each reason by itself",
            ("reason",),
            registry=registry,
        )
        self._pages = Counter("hatstand_pages", "Later pages of lists", registry=registry)
        self._hidden_items = Gauge("hatstand_hidden_items", "Items that operators have hidden", registry=registry)
        self._warnings = Counter("hatstand_warnings", "Warnings in answers", ("code",), registry=registry)
        self._short_answers = Counter(
            "hatstand_short_answers",
            "Answers with fewer items than asked for, as no more are admissible",
            registry=registry,
        )
        self._events = Counter("hatstand_events", "Reported events", ("result",), registry=registry)
        self._add_recording(registry)
        self._errors = Counter("hatstand_errors", "Problem documents sent", ("code",), registry=registry)
        self._batch_users = Histogram(
            "hatstand_batch_users", "Users in one forward pass", buckets=_USERS, registry=registry
        )
        self._batch_seconds = Histogram(
            "hatstand_batch_duration_seconds", "One forward pass", buckets=_SECONDS, registry=registry
        )
        self._recommend_seconds = Histogram(
            "hatstand_recommend_duration_seconds",
            "One recommendation, without HTTP",
            ("scenario", "source"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue_wait = Histogram(
            "hatstand_queue_wait_seconds", "From asking the model to its turn", buckets=_SECONDS, registry=registry
        )
        self._shed = Counter(
            "hatstand_requests_shed", "Refused by the model's queue, or dropped unrun", ("reason",), registry=registry
        )
        self._in_flight = Gauge("hatstand_requests_in_flight", "Requests being answered", registry=registry)
        self._connections = Gauge("hatstand_connections", "Open connections", registry=registry)
        self._rate_limited = Counter(
            "hatstand_rate_limited",
            "Requests beyond a limit, of a key, an address or wrong keys",
            ("limit",),
            registry=registry,
        )
        self._auth_failures = Counter(
            "hatstand_auth_failures", "Requests without the key they need", ("reason",), registry=registry
        )
        self._loop_lag = Histogram(
            "hatstand_event_loop_lag_seconds",
            "How much later than asked the event loop wakes up",
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue_users = Gauge("hatstand_queue_users", "Requests waiting for the model", registry=registry)
        self._state_bytes = Gauge(
            "hatstand_model_state_bytes", "What the model keeps of users between requests", ("kind",), registry=registry
        )
        self._add_state_counts(registry)
        self._add_service_gauges(registry)
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
        self._history_up = Gauge(
            "hatstand_history_store_up", "Whether the history store answered last", registry=registry
        )

    def _add_recording(self, registry: CollectorRegistry) -> None:
        """What is written down of events and answers."""
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

    def _add_state_counts(self, registry: CollectorRegistry) -> None:
        """What becomes of what the models keep of users."""
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

    def _add_service_gauges(self, registry: CollectorRegistry) -> None:
        """What is read when scraped."""
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

    def render(self) -> bytes:
        """The text that Prometheus reads."""
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
        return generate_latest(self.registry)

    def _count_states(self, kind: str, counts: CacheCounts) -> None:
        before = self._counted_states.get(kind, CacheCounts())
        if counts.hits < before.hits or counts.misses < before.misses or counts.evictions < before.evictions:
            before = CacheCounts()  # another bundle's, from 0 again
        self._state_hits.labels(kind).inc(counts.hits - before.hits)
        self._state_misses.labels(kind).inc(counts.misses - before.misses)
        self._state_evictions.labels(kind).inc(counts.evictions - before.evictions)
        self._counted_states[kind] = counts

    def watch_queue(self, num_waiting: Callable[[], int]) -> None:
        """Reads the queue's length when scraped."""
        self._queue_users.set_function(num_waiting)

    def watch_last_known(self, kept_bytes: Callable[[], Mapping[str, int]]) -> None:
        """Reads how much is remembered of users, by what it is, when scraped."""
        for what in kept_bytes():
            self._last_known_bytes.labels(what).set_function(partial(_read, kept_bytes, what))

    def watch_in_flight(self, num_in_flight: Callable[[], int]) -> None:
        """Reads the number of requests being answered when scraped."""
        self._in_flight.set_function(num_in_flight)

    def watch_connections(self, num_open: Callable[[], int]) -> None:
        """Reads the number of open connections when scraped."""
        self._connections.set_function(num_open)

    def watch_service(self, figures: Callable[[], ServiceFigures]) -> None:
        """Reads what the running service knows when scraped."""
        self._read_figures = figures

    def _child(self, metric: M, *labels: str) -> M:
        """The metric of these labels, kept: prometheus_client takes microseconds to find each one again."""
        child = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return cast("M", child)

    def http_answered(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered; ``route`` is the template, never the path."""
        self._child(self._http_seconds, route, method, str(status)).observe(seconds)

    def recommended(
        self,
        *,
        source: str,
        kind: str,
        mode: str,
        arm: str | None,
        fallback_reason: str | None,
        warnings: list[str],
        stages: Mapping[str, float],
        is_short: bool,
        scenario: str | None = None,
        seconds: float | None = None,
        steps: Sequence[tuple[str, str]] = (),
    ) -> None:
        """One recommendation was made; ``warnings`` begin with their code and a colon, ``arm`` is a kind of model.

        ``steps`` are those of the ladder that were due, each with its reason.
        """
        self._child(self._recommendations, source, kind, mode, arm or _NO_ARM).inc()
        if fallback_reason is not None:
            self._child(self._fallbacks, fallback_reason).inc()
        for warning in warnings:
            self._child(self._warnings, warning.partition(":")[0]).inc()
        for stage, stage_seconds in stages.items():
            self._child(self._stage_seconds, stage, kind, mode).observe(stage_seconds)
        for step, reason in steps:
            self._child(self._ladder_steps, step, reason).inc()
        if seconds is not None:
            self._child(self._recommend_seconds, scenario or _NO_SCENARIO, source).observe(seconds)
        if is_short:
            self._short_answers.inc()

    def retrieval_planned(self, plan: str) -> None:
        """Candidates were looked for in one of the planner's ways."""
        self._child(self._plans, plan).inc()

    def candidates_filtered(self, counts: Mapping[str, int]) -> None:
        """An answer could not have so many items, by reason."""
        for reason, count in counts.items():
            self._child(self._filtered, reason).inc(count)

    def page_answered(self) -> None:
        """A later page of a list was returned."""
        self._pages.inc()

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

    def problem_sent(self, code: str) -> None:
        """One problem document was sent."""
        self._errors.labels(code).inc()

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

    def rate_limited(self, limit: str) -> None:
        """A request came beyond a limit: of a ``key``, of an ``address``, or of ``failures``."""
        self._rate_limited.labels(limit).inc()

    def auth_failed(self, reason: str) -> None:
        """A request came without the key that it needs: ``missing``, ``unknown`` or ``scope``."""
        self._auth_failures.labels(reason).inc()

    def event_loop_lagged(self, seconds: float) -> None:
        """The event loop woke up so much later than asked."""
        self._loop_lag.observe(seconds)

    def history_store_answered(self, is_up: bool) -> None:
        """Whether the history store answered."""
        self._history_up.set(is_up)

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


def _read(figures: Callable[[], Mapping[str, int]], what: str) -> float:
    return figures()[what]
