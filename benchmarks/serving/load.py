"""What a load is, and what came of it; it is sent by a process of its own (``benchmarks.serving.client``).

Open loop: arrivals are drawn beforehand (Poisson), and a latency counts from the moment when the arrival was due, so a
server that stalls is charged for all who had to wait. Closed loop: each caller sends its next request when it has its
answer, which finds the highest throughput. Both end after so many operations or so many seconds.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from model_store.errors import HatstandError

# The path and the JSON body of one POST.
Post = tuple[str, str]
# What one arrival does: one POST, or several one after the other.
Operation = Sequence[Post]


@dataclass(frozen=True)
class Plan:
    """What is to be sent.

    Attributes:
        port: Of a server on 127.0.0.1.
        operations: Sent in this order, from the beginning again after the last one.
        count: How many at most.
        seconds: New ones are begun for so long at most.
        rate: Arrivals per second; 0: a closed loop.
        connections: Callers of a closed loop; most connections of an open one.
        marker: An answer without it has failed, as has one with another status than 200.
        seed: Of the arrivals.
    """

    port: int
    operations: Sequence[Operation]
    count: int
    seconds: float
    rate: float = 0.0
    connections: int = 128
    marker: str = ""
    seed: int = 0


@dataclass
class Load:
    """What came of it.

    Attributes:
        started_at: In ``time.monotonic()`` seconds, which all processes of a machine share.
        due_s: When each completed operation was due, in seconds since the start; closed loop: when it was sent.
        latency_ms: From then to the end of its last answer.
        failed: Operations without a good answer.
        seconds: From the start to the last answer.
        cpu_seconds: Of this client.
        lag_ms: How late the median and the 99th percentile of operations were begun; open loop only.
        sample: The last answer.
    """

    started_at: float
    due_s: list[float]
    latency_ms: list[float]
    failed: int
    seconds: float
    cpu_seconds: float
    lag_ms: tuple[float, float]
    sample: str

    @property
    def throughput(self) -> float:
        """Completed operations per second, from the first to the last answer of all that was begun."""
        return len(self.latency_ms) / self.seconds

    @property
    def cpu_share(self) -> float:
        """Of one core that the client took; near 1 it is the client that is measured."""
        return self.cpu_seconds / self.seconds

    def percentile(self, share: float, keep: Callable[[float], bool] = lambda _: True) -> float:
        """Nearest-rank percentile of the latencies in ms, of operations whose due time is kept; nan of none."""
        kept = [ms for due, ms in zip(self.due_s, self.latency_ms, strict=True) if keep(due)]
        return percentile(kept, share)


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; nan of nothing."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1] if values else math.nan


class RunningLoad:
    """A load that is being sent by another process.

    Args:
        plan: What is sent.
    """

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        try:
            with self._process.stdin as pipe:
                json.dump(asdict(plan), pipe)
        except BaseException:
            self.stop()
            raise

    def result(self) -> Load:
        """Waits for its end.

        Raises:
            HatstandError: No operation was completed, or the client broke.
        """
        try:
            assert self._process.stdout is not None
            output = self._process.stdout.read()
            if self._process.wait() != 0:
                raise HatstandError(f"the load generator ended with {self._process.returncode}")
        finally:
            self.stop()
        load = Load(**json.loads(output))
        if not load.latency_ms:
            raise HatstandError(
                f"none of {load.failed} requests was answered well; the last answer ended: {load.sample[-700:]}"
            )
        return load

    def stop(self) -> None:
        """Ends it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def send(plan: Plan) -> Load:
    """Sends a load and waits for its end.

    Raises:
        HatstandError: No operation was completed, or the client broke.
    """
    return RunningLoad(plan).result()
