"""Two workers beside one: how much more they answer, asked in turns."""

import os
import statistics
from typing import Any

from benchmarks.serving.load import Load
from benchmarks.serving.measure import Budget, best_level, closed, say
from benchmarks.serving.processes import Server
from benchmarks.serving.store import Served
from benchmarks.serving.traffic import Cached


def compare_workers(one: Server, two: Server, served: Served, budget: Budget) -> dict[str, Any]:
    """Requests per second of users whose embedding is known, at saturation.

    Returns:
        ``throughput_ratio``: two workers over one, medians of rounds in turn. ``scaling``: the same when the client is
        not counted: as if the share of the cores that the client took beside the two workers were theirs, too.
    """
    say("two workers beside one")
    traffics = {server: Cached(server, served) for server in (one, two)}
    levels = {server: best_level(server, traffic, budget.seconds / 6) for server, traffic in traffics.items()}
    loads: dict[Server, list[Load]] = {one: [], two: []}
    for _ in range(budget.rounds):
        for server, (callers, rate) in levels.items():
            seconds = budget.seconds / 2
            loads[server].append(closed(server, traffics[server], callers=callers, seconds=seconds, rate=rate))
    cores = os.cpu_count() or 1
    ratios = [ours.throughput / single.throughput for single, ours in zip(loads[one], loads[two], strict=True)]
    scalings = [
        ratio * cores / max(cores - load.cpu_share, 1.0) for ratio, load in zip(ratios, loads[two], strict=True)
    ]
    return {
        "one_per_s": statistics.median(load.throughput for load in loads[one]),
        "two_per_s": statistics.median(load.throughput for load in loads[two]),
        "client_cpu_share": statistics.median(load.cpu_share for load in loads[two]),
        "throughput_ratio": statistics.median(ratios),
        "scaling": statistics.median(scalings),
    }
