"""Reported events: how many the service takes in batches and one by one, and what requests beside them notice."""

import json
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.serving.load import Load, Operation, Plan, RunningLoad, send
from benchmarks.serving.measure import Budget, closed, say, steady_plan
from benchmarks.serving.processes import Server
from benchmarks.serving.store import Served
from benchmarks.serving.traffic import Cached, Reports
from model_store.errors import HatstandError

CALLERS = 4
BATCH_EVENTS = 500
# Batches that arrive beside requests, of as many as the service could take.
_BESIDE_SHARE = 0.5
_BESIDE_RATE = 60.0
_BATCHES_PER_SECOND = 40.0
_SINGLES_PER_SECOND = 2_000.0


def measure_events(server: Server, served: Served, budget: Budget, redis_url: str) -> dict[str, Any]:
    """Events of four callers, beside the bare script that puts the same events into the same Redis.

    Returns:
        ``batch_events_per_s`` in posts of 500 and ``single_events_per_s`` in posts of one, at saturation;
        ``script_events_per_s``: the append script alone, called by four callers with arguments made before;
        ``ratio_to_script`` of the batches, the median of rounds in turn; ``recommend_p99_ratio``: p99 of requests with
        a known embedding while batches come at half of the rate above, over p99 without them.
    """
    say("events")
    batches, singles = Reports(server, served, BATCH_EVENTS), Reports(server, served, 1)
    in_batches: list[Load] = []
    one_by_one: list[Load] = []
    script: list[float] = []
    for _ in range(budget.rounds):
        seconds = budget.seconds / 2
        in_batches.append(closed(server, batches, callers=CALLERS, seconds=seconds, rate=_BATCHES_PER_SECOND))
        script.append(_script_events_per_s(redis_url, served, seconds))
        one_by_one.append(closed(server, singles, callers=CALLERS, seconds=seconds, rate=_SINGLES_PER_SECOND))
    per_s = [BATCH_EVENTS * load.throughput for load in in_batches]
    rate = _BESIDE_SHARE * statistics.median(load.throughput for load in in_batches)
    return {
        "batch_events_per_s": statistics.median(per_s),
        "batch_p50_ms": statistics.median(load.percentile(0.5) for load in in_batches),
        "single_events_per_s": statistics.median(load.throughput for load in one_by_one),
        "script_events_per_s": statistics.median(script),
        "ratio_to_script": statistics.median(ours / bare for ours, bare in zip(per_s, script, strict=True)),
        **_beside(server, served, budget, batches.prepare(round(2 * rate * budget.seconds) + CALLERS), rate),
    }


def _beside(server: Server, served: Served, budget: Budget, batches: list[Operation], rate: float) -> dict[str, float]:
    """p99 of requests with and without batches of events beside them, in turns."""
    traffic = Cached(server, served)
    with_events: list[float] = []
    without: list[float] = []
    for number in range(budget.rounds):
        plan = steady_plan(server, traffic, rate=_BESIDE_RATE, seconds=budget.seconds, seed=number)
        without.append(send(plan).percentile(0.99))
        beside = RunningLoad(Plan(server.port, batches, len(batches), budget.seconds, rate, seed=number))
        try:
            with_events.append(send(plan).percentile(0.99))
            beside.result()
        finally:
            beside.stop()
    ratios = [busy / quiet for busy, quiet in zip(with_events, without, strict=True)]
    return {
        "recommend_p99_ms": statistics.median(without),
        "recommend_p99_beside_ms": statistics.median(with_events),
        "recommend_p99_ratio": statistics.median(ratios),
    }


def _script_events_per_s(redis_url: str, served: Served, seconds: float) -> float:
    command = [
        sys.executable,
        "-m",
        "benchmarks.serving.floors.append_script",
        redis_url,
        str(seconds),
        str(BATCH_EVENTS),
    ]
    done = subprocess.run(command, input="\n".join(served.item_ids), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HatstandError(f"the bare script failed: {done.stderr[-500:]}")
    return float(json.loads(done.stdout)["events_per_s"])
