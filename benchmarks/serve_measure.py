"""How one server bears one kind of traffic: its highest throughput, its latencies below that, where the time goes."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.serve_floors import ForwardFloor, Task
from benchmarks.serve_load import Load, Plan, RunningLoad, send
from benchmarks.serve_processes import Sample, Server
from benchmarks.serve_traffic import Traffic
from model_store.errors import HatstandError
from model_store.store import ModelStore

STEADY_SHARE = 0.7
_LEVELS = (8, 32, 64)
_PROBE_OPERATIONS = 64
# An estimate of the rate is this far off at most, or a phase ends early.
_MARGIN = 1.5
_STAGES = ("history", "queue", "encode", "search", "rank")
# While the old bundle is freed.
_AFTER_SWAP_SECONDS = 1.0


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes:
        seconds: Of one open loop; a closed loop and a floor take half of it.
        rounds: How often each is repeated; medians are reported.
    """

    seconds: float
    rounds: int


@dataclass
class Rounds:
    """What was measured in turn."""

    saturation: list[Load] = field(default_factory=list)
    steady: list[Load] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)

    def median(self, read: Callable[[Load], float], loads: str = "steady") -> float:
        """Of all rounds."""
        return statistics.median(read(load) for load in getattr(self, loads))


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def closed(server: Server, traffic: Traffic, *, callers: int, seconds: float, rate: float = 0.0) -> Load:
    """As fast as so many callers can.

    Args:
        server: Who is asked.
        traffic: What.
        callers: How many.
        seconds: For how long.
        rate: Expected; 0: unknown, so few operations are sent.
    """
    number = max(int(rate * seconds * _MARGIN), _PROBE_OPERATIONS)
    return send(Plan(server.port, traffic.prepare(number), number, seconds, connections=callers, marker=traffic.marker))


def best_level(server: Server, traffic: Traffic, seconds: float) -> tuple[int, float]:
    """How many callers get the most out of a server, and how many operations per second that is."""
    rate = closed(server, traffic, callers=_LEVELS[0], seconds=seconds).throughput
    rates: dict[int, float] = {}
    for callers in _LEVELS:
        rates[callers] = closed(server, traffic, callers=callers, seconds=seconds, rate=rate).throughput
        rate = max(rate, rates[callers])
    best = max(rates, key=lambda callers: rates[callers])
    return best, rates[best]


def steady_plan(server: Server, traffic: Traffic, *, rate: float, seconds: float, seed: int = 0) -> Plan:
    """An open loop of so many arrivals per second, on average."""
    number = max(round(rate * seconds), 1)
    operations = traffic.prepare(number)
    # the number ends it, not the clock: Poisson arrivals take a little more or less
    return Plan(server.port, operations, number, 2 * seconds, rate, marker=traffic.marker, seed=seed)


def measure(
    server: Server,
    traffic: Traffic,
    budget: Budget,
    *,
    rate: float | None = None,
    floor: Callable[[dict[Sample, float]], float] | None = None,
) -> tuple[dict[str, Any], Rounds]:
    """Saturation, floor and open loop in turn.

    Args:
        server: Who is asked.
        traffic: What.
        budget: For how long.
        rate: Of the open loop; default: 70 % of each round's saturation.
        floor: Measures it once, given what the service's counters grew by at saturation.

    Returns:
        Figures for the report, and the rounds.
    """
    callers, expected = best_level(server, traffic, budget.seconds / 3)
    rounds, steady_growth, batch_growth = Rounds(), dict[Sample, float](), dict[Sample, float]()
    for number in range(budget.rounds):
        load, growth = _watched(
            server, lambda: closed(server, traffic, callers=callers, seconds=budget.seconds / 2, rate=expected)
        )
        rounds.saturation.append(load)
        _add(batch_growth, growth)
        if floor is not None:
            rounds.floor.append(floor(growth))
        plan = steady_plan(
            server, traffic, rate=rate or STEADY_SHARE * load.throughput, seconds=budget.seconds, seed=number
        )
        load, growth = _watched(server, lambda plan=plan: send(plan))  # type: ignore[misc]
        rounds.steady.append(load)
        _add(steady_growth, growth)
    p50, p99 = (rounds.median(lambda load, share=share: load.percentile(share)) for share in (0.5, 0.99))  # type: ignore[misc]
    figures: dict[str, Any] = {
        "throughput_per_s": rounds.median(lambda load: load.throughput, "saturation"),
        "callers": callers,
        "rate_per_s": rounds.median(lambda load: len(load.latency_ms) / load.seconds),
        "p50_ms": p50,
        "p99_ms": p99,
        "p99_over_p50": p99 / p50,
        "requests": sum(len(load.latency_ms) for load in rounds.steady),
        "failed": sum(load.failed for load in rounds.saturation + rounds.steady),
        "client_cpu_share": rounds.median(lambda load: load.cpu_share, "saturation"),
        "client_lag_p99_ms": rounds.median(lambda load: load.lag_ms[1]),
    }
    if steady_growth:
        figures["batch_users_at_saturation"] = batch_users(batch_growth)
        figures["encoded_share"] = _encoded_share(batch_growth, rounds.saturation)
        figures["stages_ms"] = stages_ms(steady_growth, rounds.steady)
        cpu = batch_growth[("process_cpu_seconds_total", frozenset())]
        figures["service_cpu_ms"] = 1_000 * cpu / sum(len(load.latency_ms) for load in rounds.saturation)
    return figures, rounds


def forward_floor_of(worker: ForwardFloor, task: Task) -> Callable[[dict[Sample, float]], float]:
    """Users per second of the bare work, in batches of the size that the service ran."""

    def run(growth: dict[Sample, float]) -> float:
        return worker.users_per_second(replace(task, batch=max(round(batch_users(growth)), 1)))

    return run


def batch_users(growth: Mapping[Sample, float]) -> float:
    """Users of a forward pass, on average."""
    passes = growth[("hatstand_batch_users_count", frozenset())]
    return growth[("hatstand_batch_users_sum", frozenset())] / passes if passes else 0.0


def stages_ms(growth: Mapping[Sample, float], loads: list[Load]) -> dict[str, float]:
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


def measure_swaps(
    server: Server,
    traffic: Traffic,
    budget: Budget,
    *,
    rate: float,
    store: ModelStore,
    bundle_ids: tuple[str, str],
) -> dict[str, Any]:
    """Publishes the other bundle again and again during a steady load, and compares those who came meanwhile.

    Returns:
        ``swap_p99_ratio``: 99th percentile of requests that were due between the call that reloads and a second after
        its answer, of all swaps together, over that of all other requests of the same run.
    """
    seconds = (budget.rounds + 1) * budget.seconds + budget.rounds * _AFTER_SWAP_SECONDS
    load = RunningLoad(steady_plan(server, traffic, rate=rate, seconds=seconds))
    swaps: list[tuple[float, float]] = []
    try:
        ends_at = time.monotonic() + seconds
        for number in range(budget.rounds):
            time.sleep(budget.seconds)
            if time.monotonic() > ends_at:
                break
            store.publish(bundle_ids[(number + 1) % 2])
            started = time.monotonic()
            server.post("/admin/reload")
            swaps.append((started, time.monotonic()))
            time.sleep(_AFTER_SWAP_SECONDS)
        result = load.result()
    finally:
        load.stop()

    def is_during(due: float) -> bool:
        at = result.started_at + due
        return any(start <= at <= end + _AFTER_SWAP_SECONDS for start, end in swaps)

    during = result.percentile(0.99, is_during)
    steady = result.percentile(0.99, lambda due: not is_during(due))
    if not swaps or during != during:
        raise HatstandError("no request came during a swap: use more --seconds")
    return {
        "swap_p99_ratio": during / steady,
        "p99_during_ms": during,
        "p99_steady_ms": steady,
        "p50_during_ms": result.percentile(0.5, is_during),
        "p50_steady_ms": result.percentile(0.5, lambda due: not is_during(due)),
        "swaps": len(swaps),
        "swap_s": statistics.median(end - start for start, end in swaps),
        "requests_during": sum(map(is_during, result.due_s)),
        "requests": len(result.due_s),
        "failed": result.failed,
        "rate_per_s": rate,
    }


def _watched(server: Server, work: Callable[[], Load]) -> tuple[Load, dict[Sample, float]]:
    """A load, and what the service's counters grew by; nothing of a server without them."""
    before = server.metrics()
    load = work()
    after = server.metrics()
    return load, {sample: value - before.get(sample, 0.0) for sample, value in after.items()}


def _add(total: dict[Sample, float], growth: Mapping[Sample, float]) -> None:
    for sample, value in growth.items():
        total[sample] = total.get(sample, 0.0) + value


def _encoded_share(growth: Mapping[Sample, float], loads: list[Load]) -> float:
    """Users that the model ran for, of all operations."""
    return growth[("hatstand_batch_users_sum", frozenset())] / sum(len(load.latency_ms) for load in loads)
