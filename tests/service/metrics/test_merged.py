"""One page of metrics for several processes."""

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.metrics.merged import counts, merge
from service.metrics.workers import WorkerMetrics


def _page(*, answers: int, seconds: float, in_flight: int, is_up: bool, lag: float) -> str:
    registry = CollectorRegistry()
    counter = Counter("hatstand_errors", "Problem documents sent", ("code",), registry=registry)
    counter.labels('odd "code"\n').inc(answers)
    histogram = Histogram(
        "hatstand_http_request_duration_seconds", "Time", ("route",), buckets=(0.1, 1), registry=registry
    )
    histogram.labels("/recommend").observe(seconds)
    Gauge("hatstand_requests_in_flight", "Requests", registry=registry).set(in_flight)
    Gauge("hatstand_history_store_up", "Whether it answered", registry=registry).set(is_up)
    Gauge("hatstand_queue_seconds", "Expected", registry=registry).set(lag)
    return generate_latest(registry).decode()


def _values(page: str) -> dict[str, float]:
    lines = re.findall(r"^(hatstand_[^ ]+(?:\{.*\})?) ([-+.\dInfe]+)$", page, re.MULTILINE)
    return {name: float(value) for name, value in lines if "_created" not in name}


ONE = _page(answers=3, seconds=0.05, in_flight=2, is_up=True, lag=0.5)
OTHER = _page(answers=4, seconds=0.5, in_flight=1, is_up=False, lag=0.25)


def test_one_page_stays_as_it_is() -> None:
    assert merge([ONE]) == ONE


def test_counts_are_summed_and_gauges_are_the_sum_the_best_or_the_worst() -> None:
    route = 'route="/recommend"'
    assert _values(merge([ONE, OTHER])) == {
        'hatstand_errors_total{code="odd \\"code\\"\\n"}': 7,
        f'hatstand_http_request_duration_seconds_bucket{{le="0.1",{route}}}': 1,
        f'hatstand_http_request_duration_seconds_bucket{{le="1.0",{route}}}': 2,
        f'hatstand_http_request_duration_seconds_bucket{{le="+Inf",{route}}}': 2,
        f"hatstand_http_request_duration_seconds_count{{{route}}}": 2,
        f"hatstand_http_request_duration_seconds_sum{{{route}}}": 0.55,
        "hatstand_requests_in_flight": 3,
        "hatstand_history_store_up": 0,
        "hatstand_queue_seconds": 0.5,
    }


def test_of_a_process_that_is_gone_the_counts_stay() -> None:
    after = _values(merge([ONE, counts(OTHER)]))
    before = _values(merge([ONE, OTHER]))
    gauges = {"hatstand_requests_in_flight": 2, "hatstand_history_store_up": 1, "hatstand_queue_seconds": 0.5}
    assert after == before | gauges


def test_the_parent_counts_workers() -> None:
    metrics = WorkerMetrics(3)
    metrics.worker_ended()
    assert _values(metrics.render(num_ready=2)) == {
        "hatstand_workers": 3,
        "hatstand_workers_ready": 2,
        "hatstand_workers_ended_total": 1,
    }
