"""One page of metrics for several processes: counters and histograms are summed, gauges as the table says."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_SUMMED_TYPES = frozenset({"counter", "histogram"})
# Every other gauge is the largest of the processes: it is 1 where something is wrong, an age, or the same in all.
_SUMMED_GAUGES = frozenset(
    {
        "hatstand_requests_in_flight",
        "hatstand_connections",
        "hatstand_queue_users",
        "hatstand_last_known_bytes",
        "hatstand_model_state_bytes",
        "hatstand_bundles_draining",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
    }
)
# The worst of the processes, where less is worse.
_SMALLEST_GAUGES = frozenset(
    {
        "hatstand_history_store_up",
        "hatstand_bundle_recall_ratio",
        "hatstand_memory_available_bytes",
        "hatstand_store_last_look_timestamp_seconds",
        "hatstand_model_last_success_timestamp_seconds",
        "process_max_fds",
        "process_start_time_seconds",
    }
)

_Key = tuple[str, tuple[tuple[str, str], ...]]


def merge(pages: Iterable[str]) -> str:
    """Adds up pages.

    Args:
        pages: In Prometheus' text format; the same name has the same type on each.
    """
    families: dict[str, list[Metric]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            families.setdefault(family.name, []).append(family)
    return _text([_merged(same) for same in families.values()])


def counts(page: str) -> str:
    """What stays true of a page once its process is gone: its counters and histograms."""
    return _text([family for family in text_string_to_metric_families(page) if family.type in _SUMMED_TYPES])


def _merged(families: Sequence[Metric]) -> Metric:
    first = families[0]
    merged = Metric(first.name, first.documentation, first.type)
    values: dict[_Key, list[float]] = {}
    for family in families:
        for sample in family.samples:
            values.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample.value)
    combine = _combining(first)
    merged.samples = [Sample(name, dict(labels), combine(several)) for (name, labels), several in values.items()]
    return merged


def _combining(family: Metric) -> Callable[[Iterable[float]], float]:
    if family.type in _SUMMED_TYPES or family.name in _SUMMED_GAUGES:
        return sum
    # When a counter was made: the oldest process counts.
    return min if family.name in _SMALLEST_GAUGES or family.name.endswith("_created") else max


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _text(families: Sequence[Metric]) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry).decode()
