"""One caller, nothing else running: what an answer takes, and what the server's processor does for it."""

from dataclasses import dataclass

from benchmarks.serving.measure import closed
from benchmarks.serving.processes import Server
from benchmarks.serving.traffic import Traffic

_REQUESTS_PER_SECOND = 1_500.0


@dataclass(frozen=True)
class Alone:
    """What one caller sees.

    Attributes:
        p50_ms: Of an answer.
        cpu_ms: Of the server's main process for each answer.
    """

    p50_ms: float
    cpu_ms: float


def ask_alone(server: Server, traffic: Traffic, seconds: float) -> Alone:
    """Asks one request after the other."""
    before = server.cpu_seconds()
    load = closed(server, traffic, callers=1, seconds=seconds, rate=_REQUESTS_PER_SECOND)
    cpu_ms = 1_000 * (server.cpu_seconds() - before) / len(load.latency_ms)
    return Alone(load.percentile(0.5), cpu_ms)
