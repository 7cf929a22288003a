"""Sends HTTP requests at a rate set beforehand, or as fast as so many callers can; in a process of its own.

Open loop: arrivals are drawn beforehand (Poisson), and a latency counts from the moment when the arrival was due, so a
server that stalls is charged for all who had to wait. Closed loop: each caller sends its next request when it has its
answer, which finds the highest throughput. Both end after so many operations or so many seconds.

The client is small so that it takes little of the cores that it shares with the server: plain streams, HTTP/1.1,
connections kept alive, answers looked at only for a marker.
"""

import asyncio
import json
import math
import random
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import uvloop

from model_store.errors import HatstandError

# The path and the JSON body of one POST.
Post = tuple[str, str]
# What one arrival does: one POST, or several one after the other.
Operation = Sequence[Post]

_ANSWER_SECONDS = 30.0


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
            [sys.executable, "-m", "benchmarks.serve_load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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


class _Client:
    """Sends operations over kept connections, and notes what came of them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._marker = plan.marker.encode()
        self._messages = [[_message(*post) for post in operation] for operation in plan.operations]
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._slots = asyncio.Semaphore(plan.connections)
        self.due: list[float] = []
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.failed = 0
        self.sample = b""
        self.started_at = 0.0

    async def open_loop(self) -> None:
        """Begins operations when they are due, whatever became of those before."""
        chance = random.Random(self._plan.seed)
        self.started_at = time.monotonic()
        due, tasks = 0.0, []
        for number in range(self._plan.count):
            due += chance.expovariate(self._plan.rate)
            if due > self._plan.seconds:
                break
            await asyncio.sleep(self.started_at + due - time.monotonic())
            tasks.append(asyncio.create_task(self._operate(number, due)))
        await asyncio.gather(*tasks)

    async def closed_loop(self) -> None:
        """So many callers, each with one operation at a time."""
        self.started_at = time.monotonic()
        ends_at = self.started_at + self._plan.seconds
        numbers = iter(range(self._plan.count))

        async def caller() -> None:
            while time.monotonic() < ends_at and (number := next(numbers, None)) is not None:
                await self._operate(number, time.monotonic() - self.started_at)

        await asyncio.gather(*(caller() for _ in range(self._plan.connections)))

    async def _operate(self, number: int, due: float) -> None:
        messages = self._messages[number % len(self._messages)]
        async with self._slots:
            self.lags.append(time.monotonic() - self.started_at - due)
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    is_good = await self._exchange(messages)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                is_good = False
        if is_good:
            self.due.append(due)
            self.latencies.append(1_000 * (time.monotonic() - self.started_at - due))
        else:
            self.failed += 1

    async def _exchange(self, messages: Sequence[bytes]) -> bool:
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._plan.port)
        is_good = False
        try:
            for message in messages:
                writer.write(message)
                head = await reader.readuntil(b"\r\n\r\n")
                self.sample = await reader.readexactly(_content_length(head))
                is_good = head[9:12] == b"200"
        except BaseException:
            writer.close()
            raise
        self._free.append((reader, writer))
        return is_good and self._marker in self.sample

    async def aclose(self) -> None:
        """Closes the connections."""
        for _, writer in self._free:
            writer.close()


def _message(path: str, body: str) -> bytes:
    content = body.encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def _content_length(head: bytes) -> int:
    start = head.lower().index(b"content-length:") + len(b"content-length:")
    return int(head[start : head.index(b"\r\n", start)])


async def _run(plan: Plan) -> Load:
    client = _Client(plan)
    cpu = time.process_time()
    await (client.open_loop() if plan.rate else client.closed_loop())
    seconds = time.monotonic() - client.started_at
    cpu_seconds = time.process_time() - cpu
    await client.aclose()
    return Load(
        started_at=client.started_at,
        due_s=client.due,
        latency_ms=client.latencies,
        failed=client.failed,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        lag_ms=(1_000 * percentile(client.lags, 0.5), 1_000 * percentile(client.lags, 0.99)),
        sample=client.sample.decode(errors="replace"),
    )


def _loop(*, is_open: bool) -> asyncio.AbstractEventLoop:
    # uvloop and epoll round timers up to a millisecond, select does not; without timers uvloop takes half the time.
    return asyncio.SelectorEventLoop(selectors.SelectSelector()) if is_open else uvloop.new_event_loop()


def main() -> None:
    """Reads a plan from standard input, writes what came of it to standard output."""
    plan = Plan(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=lambda: _loop(is_open=plan.rate > 0)) as runner:
        load = runner.run(_run(plan))
    json.dump(asdict(load), sys.stdout)


if __name__ == "__main__":
    main()
