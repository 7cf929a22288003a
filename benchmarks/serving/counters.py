"""What the service's own counters say of a load: batches, and where the time goes."""

from collections.abc import Callable

from benchmarks.serving.load import Load
from benchmarks.serving.processes import Sample, Server

# What each sample of ``/metrics`` grew by.
Growth = dict[Sample, float]

_STAGES = ("history", "queue", "encode", "search", "rank")


def watched(server: Server, work: Callable[[], Load]) -> tuple[Load, Growth]:
    """A load, and what the service's counters grew by; nothing of a server without them."""
    before = server.metrics()
    load = work()
    after = server.metrics()
    return load, {sample: value - before.get(sample, 0.0) for sample, value in after.items()}


def add(total: Growth, growth: Growth) -> None:
    """Adds what grew to a total."""
    for sample, value in growth.items():
        total[sample] = total.get(sample, 0.0) + value


def batch_users(growth: Growth) -> float:
    """Users of a forward pass, on average."""
    passes = growth[("hatstand_batch_users_count", frozenset())]
    return growth[("hatstand_batch_users_sum", frozenset())] / passes if passes else 0.0


def encoded_share(growth: Growth, loads: list[Load]) -> float:
    """Users that the model ran for, of all operations."""
    return growth[("hatstand_batch_users_sum", frozenset())] / sum(len(load.latency_ms) for load in loads)


def repeated_share(growth: Growth, loads: list[Load]) -> float:
    """Answers that were those of an earlier request, of all operations."""
    labels = frozenset({("step", "model"), ("reason", "repeated")})
    repeated = growth.get(("hatstand_ladder_steps_total", labels), 0.0)
    return repeated / sum(len(load.latency_ms) for load in loads)


def stages_ms(growth: Growth, loads: list[Load]) -> dict[str, float]:
    """Where the time goes, in ms of the average operation; what no stage covers has a line of its own.

    ``pipeline`` is the rest of a recommendation, ``http`` the rest of its route (reading and checking the body,
    writing the answer), ``events`` the route that reports events, ``outside`` the rest of what the client saw:
    connections, the kernel, and waiting for the event loop.
    """
    number = sum(len(load.latency_ms) for load in loads)

    def grown(name: str, **labels: str) -> float:
        wanted = labels.items()
        return 1_000 * sum(value for (sample, has), value in growth.items() if sample == name and wanted <= set(has))

    by_stage = {stage: grown("hatstand_stage_duration_seconds_sum", stage=stage) for stage in _STAGES}
    pipeline = grown("hatstand_recommend_duration_seconds_sum")
    route = grown("hatstand_http_request_duration_seconds_sum", route="/recommend")
    events = grown("hatstand_http_request_duration_seconds_sum", route="/events")
    seen = sum(sum(load.latency_ms) for load in loads)
    total = {
        **by_stage,
        "pipeline": pipeline - sum(by_stage.values()),
        "http": route - pipeline,
        "events": events,
        "outside": seen - route - events,
        "all": seen,
    }
    return {name: value / number for name, value in total.items()}
