"""What a request notices of a swap to another bundle under load."""

import statistics
import time
from typing import Any

from benchmarks.serving.load import RunningLoad
from benchmarks.serving.measure import Budget, steady_plan
from benchmarks.serving.processes import Server
from benchmarks.serving.traffic import Traffic
from model_store.artifacts.store import ModelStore
from model_store.errors import HatstandError

# While the old bundle is freed.
_AFTER_SWAP_SECONDS = 1.0


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
