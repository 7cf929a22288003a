"""What Prometheus scrapes.

One registry per application, so that two in a process do not share numbers. Labels are bounded: no user, item or free
text ever becomes one.
"""

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest

from service.metrics.engine import EngineMetrics
from service.metrics.http import HttpMetrics
from service.metrics.people import PeopleMetrics
from service.metrics.recommend import RecommendMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one application, by what they are about."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.http = HttpMetrics(self.registry)
        self.recommend = RecommendMetrics(self.registry)
        self.people = PeopleMetrics(self.registry)
        self.engine = EngineMetrics(self.registry)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        self.engine.refresh()
        return generate_latest(self.registry)
