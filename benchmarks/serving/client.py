"""Sends a load: reads a plan from standard input, and writes what came of it to standard output.

It is small, so that it takes little of the cores that it shares with the server: plain streams, HTTP/1.1, connections
kept alive, answers looked at only for a marker.
"""

import asyncio
import json
import random
import selectors
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

import uvloop

from benchmarks.serving.load import Load, Plan, percentile

_ANSWER_SECONDS = 30.0


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
