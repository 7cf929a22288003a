"""What Prometheus scrapes.

One registry per application, so that two in a process do not share numbers. Labels are bounded: no user,
item or free text ever becomes one.
"""

from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_NO_ARM = "none"
_USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """All metrics of one application."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
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
        self._warnings = Counter("hatstand_warnings", "Warnings in answers", ("code",), registry=registry)
        self._short_answers = Counter(
            "hatstand_short_answers",
            "Answers with fewer items than asked for, as no more are admissible",
            registry=registry,
        )
        self._events = Counter("hatstand_events", "Reported events", ("result",), registry=registry)
        self._errors = Counter("hatstand_errors", "Problem documents sent", ("code",), registry=registry)
        self._batch_users = Histogram(
            "hatstand_batch_users", "Users in one forward pass", buckets=_USERS, registry=registry
        )
        self._batch_seconds = Histogram(
            "hatstand_batch_duration_seconds", "One forward pass", buckets=_SECONDS, registry=registry
        )
        self._shed = Counter("hatstand_requests_shed", "Refused because the queue was full", registry=registry)
        self._queue_users = Gauge("hatstand_queue_users", "Requests waiting for the model", registry=registry)
        self._state_bytes = Gauge(
            "hatstand_model_state_bytes", "What the model keeps of users between requests", ("kind",), registry=registry
        )
        self._read_state_bytes: Callable[[], Mapping[str, int]] = dict
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

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        self._state_bytes.clear()
        for kind, num_bytes in self._read_state_bytes().items():
            self._state_bytes.labels(kind).set(num_bytes)
        return generate_latest(self.registry)

    def watch_queue(self, num_waiting: Callable[[], int]) -> None:
        """Reads the queue's length when scraped."""
        self._queue_users.set_function(num_waiting)

    def watch_states(self, kept_bytes: Callable[[], Mapping[str, int]]) -> None:
        """Reads what is kept of users, per kind of model, when scraped."""
        self._read_state_bytes = kept_bytes

    def http_answered(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered; ``route`` is the template, never the path."""
        self._http_seconds.labels(route, method, str(status)).observe(seconds)

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
    ) -> None:
        """One recommendation was made; ``warnings`` begin with their code and a colon, ``arm`` is a kind of model."""
        self._recommendations.labels(source, kind, mode, arm or _NO_ARM).inc()
        if fallback_reason is not None:
            self._fallbacks.labels(fallback_reason).inc()
        for warning in warnings:
            self._warnings.labels(warning.partition(":")[0]).inc()
        for stage, seconds in stages.items():
            self._stage_seconds.labels(stage, kind, mode).observe(seconds)
        if is_short:
            self._short_answers.inc()

    def events_handled(self, *, accepted: int, duplicates: int, rejected: int) -> None:
        """One batch of events was taken."""
        for result, count in (("accepted", accepted), ("duplicate", duplicates), ("rejected", rejected)):
            self._events.labels(result).inc(count)

    def problem_sent(self, code: str) -> None:
        """One problem document was sent."""
        self._errors.labels(code).inc()

    def batch_ran(self, *, num_users: int, seconds: float) -> None:
        """One forward pass is done."""
        self._batch_users.observe(num_users)
        self._batch_seconds.observe(seconds)

    def request_shed(self) -> None:
        """The queue was full."""
        self._shed.inc()

    def history_store_answered(self, is_up: bool) -> None:
        """Whether the history store answered."""
        self._history_up.set(is_up)

    def bundles_loaded(self, bundles: Mapping[str, tuple[str, str, int, float]]) -> None:
        """A reload went well; per kind: bundle id, model id, number of items, recall."""
        self._swaps.labels("loaded").inc()
        for gauge in (self._bundle_info, self._bundle_items, self._bundle_recall):
            gauge.clear()
        for kind, (bundle_id, model_id, num_items, recall) in bundles.items():
            self._bundle_info.labels(kind, bundle_id, model_id).set(1)
            self._bundle_items.labels(kind).set(num_items)
            self._bundle_recall.labels(kind).set(recall)

    def bundle_refused(self) -> None:
        """A reload was refused."""
        self._swaps.labels("refused").inc()
