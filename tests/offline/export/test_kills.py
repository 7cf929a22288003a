"""SIGKILL for the export and for Redis, at every step and at any moment: nothing is lost, and nothing is twice."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.people.appending import RetentionLimits
from model_store.people.owner import Owner
from service.errors import HistoryUnavailable
from service.redis.calls import RedisCalls, connect
from service.redis.histories import RedisHistoryStore
from tests.offline.export.killing import killed_after, killed_at_step
from tests.offline.export.log_writing import append, clicks, export, exported, names, with_store
from tests.processes.redis_processes import RedisProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path / "redis") as process:
        yield process


def test_a_run_that_is_killed_at_any_step_repeats_and_loses_nothing(server: RedisProcess, tmp_path: Path) -> None:
    out, expected = tmp_path / "out", set()
    for step in itertools.count(1):
        events = [event for user in range(8) for event in clicks(f"u{user}", [step])]
        events += clicks(f"s{step}", [step], session=True)
        append(server.url, events)
        expected |= {
            (f"merged{step}" if event.owner.is_session else event.owner.id, event.event_id) for event in events
        }
        with_store(
            server.url, lambda store, step=step: store.merge(Owner(f"s{step}", is_session=True), Owner(f"merged{step}"))
        )
        with_store(server.url, lambda store, step=step: store.erase(Owner(f"nobody{step}")))
        was_killed = killed_at_step(server.url, out, step)
        found = names(out) if (out / "export.json").exists() and not was_killed else []
        assert len(found) == len(set(found))
        if not was_killed:
            break
    assert step > 10
    assert names(out) == sorted(expected)
    assert export(server.url, out).events == 0


def test_a_run_that_is_killed_at_any_moment_repeats_and_loses_nothing(server: RedisProcess, tmp_path: Path) -> None:
    out, expected, num_killed, generator = tmp_path / "out", set(), 0, random.Random(4)
    append(server.url, [event for user in range(500) for event in clicks(f"first{user}", range(20))])
    expected |= {(f"first{user}", f"e{number}") for user in range(500) for number in range(20)}
    started = time.monotonic()
    export(server.url, tmp_path / "measured")
    seconds = time.monotonic() - started
    for number in range(15):
        events = clicks("later", [number])
        append(server.url, events)
        expected |= {("later", f"e{number}")}
        num_killed += killed_after(server.url, out, generator.uniform(0.02, 0.6) * seconds)
    assert num_killed
    export(server.url, out, trim=True)
    assert names(out) == sorted(expected)


async def test_no_acknowledged_event_is_lost_or_twice_when_redis_is_killed(
    server: RedisProcess, tmp_path: Path
) -> None:
    out, acknowledged = tmp_path / "out", set()
    client = connect(server.url, cluster=False, timeout_seconds=0.5)
    store = RedisHistoryStore(RedisCalls(client, timeout_seconds=1), limits=RetentionLimits(max_events=10_000))
    is_over = asyncio.Event()

    async def report(user: str) -> None:
        for number in itertools.count():
            if is_over.is_set():
                return
            while not is_over.is_set():  # a caller who is refused sends the same again
                try:
                    await store.append(clicks(user, [number]))
                except HistoryUnavailable:
                    await asyncio.sleep(0.01)
                else:
                    acknowledged.add((user, f"e{number}"))
                    break

    reporters = [asyncio.create_task(report(f"u{number}")) for number in range(6)]
    for _ in range(6):
        await asyncio.sleep(random.uniform(0.05, 0.4))
        server.kill()
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(export, server.url, out, trim=True)
    is_over.set()
    await asyncio.gather(*reporters)
    kept = {
        (user, event.event_id)
        for user in {user for user, _ in acknowledged}
        for event in await store.events(Owner(user))
    }
    await store.aclose()
    await asyncio.to_thread(export, server.url, out, trim=True)
    found = names(out)
    assert len(acknowledged) > 100
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)
    # What was refused at the last moment may have been written, but then it was in both: history and log never differ.
    assert set(found) == kept


def test_an_event_is_in_the_history_and_in_the_log_or_in_neither(tmp_path: Path) -> None:
    server = RedisProcess(tmp_path / "redis", "--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
    server.start()
    try:
        refused, number = False, 0
        while not refused:
            try:
                events = clicks("u", range(number, number + 500))
                with_store(server.url, lambda store, some=events: store.append(some), max_logged=1_000_000_000)
            except HistoryUnavailable:
                refused = True
            number += 500
        kept = with_store(server.url, lambda store: store.events(Owner("u")), max_events=10_000)
        export(server.url, tmp_path / "out")
        assert {row["event_id"] for row in exported(tmp_path / "out")} >= {event.event_id for event in kept}
        assert len(exported(tmp_path / "out")) == number - 500
        assert {row["shard"] for row in exported(tmp_path / "out")} == {Owner("u").shard}
    finally:
        server.kill()
