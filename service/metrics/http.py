"""Requests and connections: how long, how many, and who was refused."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.metrics.family import SECONDS, Family


class HttpMetrics(Family):
    """Requests and connections: how long, how many, and who was refused."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._http_seconds = Histogram(
            "hatstand_http_request_duration_seconds",
            "From the first byte of a request to the last of its answer",
            ("route", "method", "status"),
            buckets=SECONDS,
            registry=registry,
        )
        self._errors = Counter("hatstand_errors", "Problem documents sent", ("code",), registry=registry)
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

    def watch_in_flight(self, num_in_flight: Callable[[], int]) -> None:
        """Reads the number of requests being answered when scraped."""
        self._in_flight.set_function(num_in_flight)

    def watch_connections(self, num_open: Callable[[], int]) -> None:
        """Reads the number of open connections when scraped."""
        self._connections.set_function(num_open)

    def http_answered(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered; ``route`` is the template, never the path."""
        self._child(self._http_seconds, route, method, str(status)).observe(seconds)

    def problem_sent(self, code: str) -> None:
        """One problem document was sent."""
        self._errors.labels(code).inc()

    def rate_limited(self, limit: str) -> None:
        """A request came beyond a limit: of a ``key``, of an ``address``, or of ``failures``."""
        self._rate_limited.labels(limit).inc()

    def auth_failed(self, reason: str) -> None:
        """A request came without the key that it needs: ``missing``, ``unknown`` or ``scope``."""
        self._auth_failures.labels(reason).inc()
