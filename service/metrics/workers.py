"""What the parent of several workers counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class WorkerMetrics:
    """How many workers there are.

    Args:
        num_workers: How many there are to be.
    """

    def __init__(self, num_workers: int) -> None:
        self._registry = CollectorRegistry()
        workers = Gauge("hatstand_workers", "Processes that are to serve", registry=self._registry)
        workers.set(num_workers)
        self._ready = Gauge("hatstand_workers_ready", "Processes that can answer", registry=self._registry)
        self._ended = Counter(
            "hatstand_workers_ended", "Processes that ended and were replaced", registry=self._registry
        )

    def worker_ended(self) -> None:
        """A worker's process has ended."""
        self._ended.inc()

    def render(self, *, num_ready: int) -> str:
        """The text that Prometheus reads.

        Args:
            num_ready: Workers that can answer.
        """
        self._ready.set(num_ready)
        return generate_latest(self._registry).decode()
