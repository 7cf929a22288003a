"""Loads the histories of a dataset's users into the service's Redis, so that the service knows its customers.

A run that was killed goes on where it was, and a second run changes nothing. The service may serve meanwhile.
"""

import hashlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from model_store.errors import InvalidInput
from model_store.people.appending import RetentionLimits
from offline.dataset.dataset import INTERACTIONS_FILE, Dataset
from offline.export.notes import SESSION_PREFIX
from offline.job import job
from offline.redis.connection import connect
from offline.redis.history_loader import HistoryLoader, LoadCounts, PastEvent, newest

app = typer.Typer(add_completion=False, help=__doc__)

_DEFAULTS = RetentionLimits()

_ROWS_PER_READ = 1 << 16
_EVENTS_AT_ONCE = 4_000
_USERS_AT_ONCE = 500
_COLUMNS = ["user_id", "item_id", "timestamp", "type", "rating"]

UserHistory = tuple[str, list[PastEvent]]


@dataclass(frozen=True)
class LoadSettings:
    """What to load, and where to.

    Attributes:
        data: A dataset directory.
        redis_url: Of the service's Redis.
        cluster: Whether the url names a node of a Redis Cluster.
        limits: Of the service; what it would drop is not kept here either.
    """

    data: Path
    redis_url: str
    cluster: bool = False
    limits: RetentionLimits = _DEFAULTS


def load_histories(settings: LoadSettings) -> dict[str, Any]:
    """Loads all histories of a dataset; memory holds some users at a time.

    Returns:
        The figures of the job's last line.

    Raises:
        InvalidInput: No dataset, or Redis does not answer.
    """
    started = time.monotonic()
    dataset = Dataset.open(settings.data)
    client = connect(settings.redis_url, cluster=settings.cluster)
    try:
        loader = HistoryLoader(
            client,
            settings.limits,
            load_id=_load_id(dataset, settings.limits),
            has_moments=dataset.time_unit == "seconds",
        )
        resumed_after = loader.position()
        counts, num_users, num_sessions = LoadCounts(), 0, 0
        histories = _histories(dataset, loader.max_sent, settings.limits.events_dropped_at_once)
        progress = job.progress(histories, description="histories", total=dataset.description.num_users, unit="user")
        for batch in _batches(progress):
            num_users += len(batch)
            if num_users <= resumed_after:
                continue
            # sessions of an export: the service forgets them within a day, and nobody asks for them under this name
            users = [(user_id, events) for user_id, events in batch if not user_id.startswith(SESSION_PREFIX)]
            num_sessions += len(batch) - len(users)
            counts += loader.load(users)
            loader.set_position(num_users)
        loader.clear_position()
    finally:
        client.close()
    seconds = time.monotonic() - started
    return {
        "users": num_users,
        "users_done_before": min(resumed_after, num_users),
        "events_added": counts.added,
        "events_known": counts.known,
        "events_not_kept": counts.not_kept,
        "sessions_left_out": num_sessions,
        "seconds": round(seconds, 3),
        "users_per_s": round((num_users - min(resumed_after, num_users)) / seconds, 1),
    }


def _histories(dataset: Dataset, limit: int, step: int) -> Iterator[UserHistory]:
    """Yields each user with the newest of their events, oldest first."""
    try:
        with pq.ParquetFile(dataset.directory / INTERACTIONS_FILE) as file:
            batches = file.iter_batches(batch_size=_ROWS_PER_READ, columns=_COLUMNS)
            columns = ([batch.column(name).to_pylist() for name in _COLUMNS] for batch in batches)
            rows = chain.from_iterable(zip(*some, strict=True) for some in columns)
            for user_id, group in groupby(rows, key=itemgetter(0)):
                kept: deque[tuple[Any, ...]] = deque(maxlen=limit)
                num_events = 0
                for row in group:
                    kept.append(row)
                    num_events += 1
                yield user_id, list(newest([PastEvent(*row[1:]) for row in kept], num_events, limit, step))
    except OSError as error:
        raise InvalidInput(f"{dataset.directory / INTERACTIONS_FILE} cannot be read: {error}") from error


def _batches(histories: Iterator[UserHistory]) -> Iterator[list[UserHistory]]:
    batch: list[UserHistory] = []
    num_events = 0
    for history in histories:
        batch.append(history)
        num_events += len(history[1])
        if num_events >= _EVENTS_AT_ONCE or len(batch) >= _USERS_AT_ONCE:
            yield batch
            batch, num_events = [], 0
    if batch:
        yield batch


def _load_id(dataset: Dataset, limits: RetentionLimits) -> str:
    """Names the content of a dataset and the limits."""
    with (dataset.directory / INTERACTIONS_FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(repr(limits).encode())
    return digest.hexdigest()[:16]


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="A dataset directory (offline.import_data, offline.build).")],
    redis_url: Annotated[str, typer.Option(help="Of the service's Redis; of the embedded one: its file redis.url.")],
    cluster: Annotated[bool, typer.Option("--cluster", help="The url names a node of a Redis Cluster.")] = False,
    max_events: Annotated[
        int, typer.Option(help="As the service has it.", envvar="HATSTAND_HISTORY_MAX_EVENTS", min=1)
    ] = _DEFAULTS.max_events,
    max_event_ids: Annotated[
        int, typer.Option(help="As the service has it.", envvar="HATSTAND_HISTORY_MAX_EVENT_IDS", min=1)
    ] = _DEFAULTS.max_remembered,
    ttl_days: Annotated[
        int, typer.Option(help="As the service has it.", envvar="HATSTAND_HISTORY_TTL_DAYS", min=1)
    ] = _DEFAULTS.ttl_seconds // 86_400,
) -> None:
    """Loads histories; limits are read from the service's variables where they are set."""
    limits = RetentionLimits(max_events=max_events, max_remembered=max_event_ids, ttl_seconds=ttl_days * 86_400)
    job.report(load_histories(LoadSettings(data, redis_url, cluster, limits)))


if __name__ == "__main__":
    job.run(app)
