"""Fills an event log the way the service does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from model_store.people.appending import RetentionLimits
from model_store.people.owner import Owner
from offline.export.files import EVENT_SCHEMA, read_manifest
from offline.export_events import ExportOptions, ExportResult, export_events
from offline.redis.event_stream import EventStream
from service.people.history_store import Event
from service.redis.calls import RedisCalls, connect
from service.redis.histories import RedisHistoryStore

T = TypeVar("T")


def with_store(
    url: str, work: Callable[[RedisHistoryStore], Awaitable[T]], *, cluster: bool = False, **limits: Any
) -> T:
    """Opens the service's store of histories, works with it, and closes it."""

    async def run() -> T:
        client = connect(url, cluster=cluster, timeout_seconds=10)
        store = RedisHistoryStore(RedisCalls(client, timeout_seconds=30), limits=RetentionLimits(**limits))
        try:
            return await work(store)
        finally:
            await store.aclose()

    return asyncio.run(run())


def append(url: str, events: Sequence[Event], *, cluster: bool = False) -> int:
    """Reports events; returns how many were new."""
    return with_store(url, lambda store: store.append(events), cluster=cluster).accepted


def clicks(user: str, numbers: Sequence[int], *, session: bool = False) -> list[Event]:
    """One click per number, on ``i<number>`` at that second."""
    return [
        Event(
            event_id=f"e{number}",
            owner=Owner(user, is_session=session),
            item_id=f"i{number}",
            timestamp=1_700_000_000 + number,
        )
        for number in numbers
    ]


def export(url: str, out: Path, *, cluster: bool = False, **options: Any) -> ExportResult:
    """One run in this process."""
    with EventStream(url, cluster=cluster) as stream:
        return export_events(stream, out, ExportOptions(**options))


def exported(out: Path) -> list[dict[str, Any]]:
    """All rows of all files, as anybody finds them who just reads ``events-*.parquet``."""
    files = sorted(out.glob("events-*.parquet"))
    manifest = read_manifest(out)
    assert [path.name for path in files] == [run.events for run in manifest.runs if run.events]
    return pa.concat_tables([EVENT_SCHEMA.empty_table(), *map(pq.read_table, files)]).to_pylist()


def names(out: Path) -> list[tuple[str, str]]:
    """(user, event id) of all exported events, sorted."""
    return sorted((row["user_id"], row["event_id"]) for row in exported(out))
