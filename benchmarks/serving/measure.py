"""How one server bears one kind of traffic: its highest throughput, its latencies below that, where the time goes."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks.serving.counters import Growth, add, batch_users, encoded_share, repeated_share, stages_ms, watched
from benchmarks.serving.floors.forward import ForwardFloor, Task
from benchmarks.serving.load import Load, Plan, send
from benchmarks.serving.processes import Server
from benchmarks.serving.traffic import Traffic

STEADY_SHARE = 0.7
_LEVELS = (8, 32, 64)
_PROBE_OPERATIONS = 64
# An estimate of the rate is this far off at most, or a phase ends early.
_MARGIN = 1.5


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
    floors: dict[str, list[float]] = field(default_factory=dict)

    def median(self, read: Callable[[Load], float], loads: str = "steady") -> float:
        """Of all rounds."""
        return statistics.median(read(load) for load in getattr(self, loads))

    def ratio(self, floor: str) -> float:
        """Throughput at saturation over a floor's, the median of the ratios of all rounds."""
        return statistics.median(
            load.throughput / per_s for load, per_s in zip(self.saturation, self.floors[floor], strict=True)
        )


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
    floors: Mapping[str, Callable[[Growth], float]] | None = None,
) -> tuple[dict[str, Any], Rounds]:
    """Saturation, floor and open loop in turn.

    Args:
        server: Who is asked.
        traffic: What.
        budget: For how long.
        rate: Of the open loop; default: 70 % of each round's saturation.
        floors: By name: measures one once, given what the service's counters grew by at saturation, and returns
            operations per second.

    Returns:
        Figures for the report, and the rounds.
    """
    callers, expected = best_level(server, traffic, budget.seconds / 3)
    rounds, steady_growth, batch_growth = Rounds(), Growth(), Growth()
    for number in range(budget.rounds):
        load, growth = watched(
            server, lambda: closed(server, traffic, callers=callers, seconds=budget.seconds / 2, rate=expected)
        )
        rounds.saturation.append(load)
        add(batch_growth, growth)
        for name, floor in (floors or {}).items():
            rounds.floors.setdefault(name, []).append(floor(growth))
        plan = steady_plan(
            server, traffic, rate=rate or STEADY_SHARE * load.throughput, seconds=budget.seconds, seed=number
        )
        load, growth = watched(server, partial(send, plan))
        rounds.steady.append(load)
        add(steady_growth, growth)
    p50, p99 = rounds.median(lambda load: load.percentile(0.5)), rounds.median(lambda load: load.percentile(0.99))
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
    for name, per_s in rounds.floors.items():
        figures[f"{name}_per_s"] = statistics.median(per_s)
        figures[f"ratio_to_{name}"] = rounds.ratio(name)
    if steady_growth:
        figures["batch_users_at_saturation"] = batch_users(batch_growth)
        figures["encoded_share"] = encoded_share(batch_growth, rounds.saturation)
        figures["repeated_share"] = repeated_share(batch_growth, rounds.saturation)
        figures["stages_ms"] = stages_ms(steady_growth, rounds.steady)
        cpu = batch_growth[("process_cpu_seconds_total", frozenset())]
        figures["service_cpu_ms"] = 1_000 * cpu / sum(len(load.latency_ms) for load in rounds.saturation)
    return figures, rounds


def forward_floor_of(worker: ForwardFloor, task: Task) -> Callable[[Growth], float]:
    """Users per second of the bare work, in batches of the size that the service ran."""

    def run(growth: Growth) -> float:
        return worker.users_per_second(replace(task, batch=max(round(batch_users(growth)), 1)))

    return run
