"""Metrics of one kind, in the registry of the application."""

from typing import Any, TypeVar, cast

from prometheus_client import Counter, Histogram

M = TypeVar("M", Counter, Histogram)

# Bounds of the buckets of a time, in seconds.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Family:
    """Metrics that belong together."""

    def __init__(self) -> None:
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}

    def _child(self, metric: M, *labels: str) -> M:
        """The metric of these labels, kept: prometheus_client takes microseconds to find each one again."""
        child = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return cast("M", child)
