"""The floor of reported events: the service's own append script, called by four callers with arguments made before."""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import typer
import uvloop
from redis.asyncio import Redis

from benchmarks.serving.traffic import POOL_USERS
from model_store.people.appending import RetentionLimits, append_call, append_script
from model_store.people.event_log import pack_event
from model_store.people.owner import Owner
from service.redis.calls import Script

_CALLERS = 4
# More batches than any machine takes in a second.
_BATCHES_PER_SECOND = 100

Call = Sequence[Any]


def main(redis_url: str, seconds: float, batch_events: int) -> None:
    """Prints events per second; item ids come on standard input, one a line."""
    item_ids = sys.stdin.read().split()
    batches = [_batch(item_ids, batch_events, at) for at in range(int(_BATCHES_PER_SECOND * seconds) + _CALLERS)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        num_batches, took = runner.run(_call_all(redis_url, batches, seconds))
    typer.echo(json.dumps({"events_per_s": num_batches * batch_events / took}))


def _batch(item_ids: Sequence[str], num_events: int, number: int) -> list[Call]:
    """One call for each user of a batch, as the history store makes it."""
    limits, chance, now = RetentionLimits(), random.Random(number), int(time.time())
    by_user: dict[str, list[tuple[str, int, bytes]]] = {}
    for at in range(num_events):
        event_id = f"script-{time.monotonic_ns()}-{number}-{at}"
        payload = pack_event(chance.choice(item_ids), "click", event_id, None, {})
        by_user.setdefault(f"reporter-{at % POOL_USERS}", []).append((event_id, now - num_events + at, payload))
    calls: list[Call] = []
    for user_id, events in by_user.items():
        keys, arguments = append_call(
            Owner(user_id), events, limits, token=f"{number:016x}", max_logged=limits.max_logged_per_shard
        )
        calls.append((len(keys), *keys, *arguments))
    return calls


async def _call_all(redis_url: str, batches: list[list[Call]], seconds: float) -> tuple[int, float]:
    """How many batches were taken, and the time that it took."""
    client, script = Redis.from_url(redis_url, protocol=2), Script("append_events", append_script())
    await client.script_load(script.source)
    waiting = iter(batches)
    started = time.perf_counter()
    num_batches = 0

    async def call() -> None:
        nonlocal num_batches
        while time.perf_counter() - started < seconds and (batch := next(waiting, None)) is not None:
            pipeline = client.pipeline(transaction=False)
            for arguments in batch:
                pipeline.evalsha(script.sha, *arguments)
            await pipeline.execute()
            num_batches += 1

    await asyncio.gather(*(call() for _ in range(_CALLERS)))
    took = time.perf_counter() - started
    await client.aclose()
    return num_batches, took


if __name__ == "__main__":
    typer.run(main)
