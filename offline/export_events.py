"""Exports the service's event log to Parquet, each event exactly once, so that the next training run sees it.

Goes on where the last run into the same directory stopped. Files and position are committed together, in one atomic
step, so a run that was killed at any moment has either happened or not; the next one repeats nothing and loses nothing.
Only what is committed is ever trimmed from Redis. ``offline.import_data events`` reads the directory.
"""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from model_store.artifacts.durable import sync_directory
from model_store.errors import InvalidInput
from model_store.people.event_log import CONSOLE_ORIGIN, LoggedErasure, LoggedEvent, LoggedMerge
from offline.export.files import (
    EVENT_SCHEMA,
    Manifest,
    Run,
    locked,
    now,
    read_manifest,
    remove_strays,
    write_manifest,
)
from offline.export.ids import Identities, KnownIds
from offline.export.notes import Note, Notes, read_notes, session_user, write_notes
from offline.job import job
from offline.redis.event_stream import BEGINNING, EventStream, Position, format_position, parse_position

LOGGER = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, help=__doc__)

_ROWS_AT_ONCE = 20_000
_MAX_RATING = 1e30

Logged = tuple[int, Position, LoggedEvent]


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        trim: Remove from Redis what is committed.
        remember_days: How long an event is recognised should it come again, for whatever reason.
        skip_trimmed: Go on although others trimmed events that this directory does not have.
        with_console: Export the events of the console, too: an operator tried them, no customer did.
    """

    trim: bool = False
    remember_days: int = 90
    skip_trimmed: bool = False
    with_console: bool = False


@dataclass
class ExportResult:
    """What a run did.

    Attributes:
        run: Its number; None if there was nothing to export.
        events: Written.
        duplicates: Left out, as they were exported before.
        erased: Left out, as their user was erased after.
        console: Left out, as they come from the console.
        merges: Sessions that became users', noted.
        erasures: Erased users and sessions, noted.
        trimmed: Entries removed from Redis.
    """

    run: int | None = None
    events: int = 0
    duplicates: int = 0
    erased: int = 0
    console: int = 0
    merges: int = 0
    erasures: int = 0
    trimmed: int = 0


def export_events(stream: EventStream, out: Path, options: ExportOptions) -> ExportResult:
    """Exports what is in the log now and not in the directory yet.

    Args:
        stream: The log.
        out: The directory; made if it is missing.
        options: How.

    Raises:
        InvalidInput: Redis does not answer, the directory is damaged or in use, or events are missing because another
            export trimmed them.
    """
    with locked(out):
        manifest = read_manifest(out)
        _check_files(out, manifest)
        remove_strays(out, manifest)
        result = _Export(stream, out, manifest, options).run()
        if options.trim:
            committed = read_manifest(out)
            for shard in committed.positions:
                result.trimmed += stream.trim(shard, committed.position(shard))
    return result


def _check_files(out: Path, manifest: Manifest) -> None:
    """Events may be moved away once they were used; what tells them from new ones may not."""
    for name in sorted(manifest.files()):
        if not name.startswith("events-") and not (out / name).is_file():
            raise InvalidInput(f"{out} lacks {name}, without which events could be exported twice or after an erasure")


class _Export:
    """One run, up to its commit."""

    def __init__(self, stream: EventStream, out: Path, manifest: Manifest, options: ExportOptions) -> None:
        self._stream = stream
        self._out = out
        self._manifest = manifest
        self._options = options
        self._moment = now()
        oldest = self._moment - timedelta(days=options.remember_days)
        self._known = KnownIds(out, manifest.ids, oldest=oldest)
        self._identities = Identities(read_notes(out / run.notes for run in manifest.runs if run.notes))
        self._is_reset = False
        self._new_ids: set[bytes] = set()
        self._notes: list[Note] = []
        self._result = ExportResult()

    def run(self) -> ExportResult:
        starts, ends = self._range()
        partial = self._file("events").with_suffix(".parquet.partial")
        with pq.ParquetWriter(partial, EVENT_SCHEMA, compression="zstd") as writer:
            events = self._events(starts, ends)
            for batch in iter(lambda: list(islice(events, _ROWS_AT_ONCE)), []):
                self._write(writer, batch)
        if self._new_ids or self._notes or self._is_reset or self._result.console:
            self._commit(partial, ends)
        else:
            partial.unlink()
        return self._result

    def _file(self, kind: str) -> Path:
        suffix = "npy" if kind == "ids" else "parquet"
        return self._out / f"{kind}-{self._manifest.next_run:06d}.{suffix}"

    def _range(self) -> tuple[dict[int, Position], dict[int, Position]]:
        """Per shard the position after which, and the one up to which, it is read."""
        ends = self._stream.ends()
        starts = {shard: self._manifest.position(shard) for shard in ends}
        if not self._options.skip_trimmed:
            self._check_trimmed()
        for shard, end in ends.items():
            if end < starts[shard]:
                # A Redis that lost its last second, or another one: its positions mean nothing here, but event ids do.
                LOGGER.warning("the log of shard %d ends before what was exported of it: reading all of it", shard)
                starts[shard] = BEGINNING
                self._is_reset = True
        return starts, ends

    def _check_trimmed(self) -> None:
        for shard, trimmed in self._stream.trimmed().items():
            position = self._manifest.position(shard)
            if trimmed > position:
                raise InvalidInput(
                    f"the log of shard {shard} was trimmed up to {format_position(trimmed)} by an export to another "
                    f"directory, and {self._out} has it up to {format_position(position)} only: export to that "
                    "directory, or accept the gap with --skip-trimmed"
                )

    def _events(self, starts: dict[int, Position], ends: dict[int, Position]) -> Iterator[Logged]:
        """All new events by shard; notes are put aside on the way."""
        entries = (
            (shard, position, entry)
            for shard in sorted(ends)
            for position, entry in self._stream.read(shard, starts[shard], ends[shard])
        )
        for shard, position, entry in job.progress(
            entries, description="events", total=self._stream.count(), unit="entry"
        ):
            if isinstance(entry, LoggedEvent):
                if self._options.with_console or entry.properties.get("origin") != CONSOLE_ORIGIN:
                    yield shard, position, entry
                else:
                    self._result.console += 1
                continue
            self._notes.append((shard, position, entry))
            if isinstance(entry, LoggedErasure):
                self._identities.add(position, entry)

    def _write(self, writer: pq.ParquetWriter, batch: list[Logged]) -> None:
        ids = [self._identities.id_of(position, event) for _, position, event in batch]
        rows = []
        for (shard, position, event), one, is_known in zip(batch, ids, self._known.contains(ids), strict=True):
            if is_known or one in self._new_ids:
                self._result.duplicates += 1
                continue
            self._new_ids.add(one)
            rows.append(_row(shard, position, event))
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=EVENT_SCHEMA))

    def _commit(self, partial: Path, ends: dict[int, Position]) -> None:
        self._settle(partial)
        result = self._result
        result.run = self._manifest.next_run
        events, notes, ids = self._file("events"), self._file("notes"), self._file("ids")
        if result.events:
            partial.rename(events)
        else:
            partial.unlink()
        if self._notes:
            write_notes(notes, self._notes)
            result.merges = sum(isinstance(note, LoggedMerge) for _, _, note in self._notes)
            result.erasures = len(self._notes) - result.merges
        run = Run(
            number=result.run,
            exported_at=self._moment,
            num_events=result.events,
            events=events.name if result.events else None,
            notes=notes.name if self._notes else None,
        )
        known = self._known.add(sorted(self._new_ids), ids, until=self._moment)
        manifest = self._manifest.after(run, ends, known)
        for name in manifest.files() - self._manifest.files():
            _sync(self._out / name)
        sync_directory(self._out)
        write_manifest(self._out, manifest)
        # hashes that are in a larger file now
        remove_strays(self._out, manifest)

    def _settle(self, partial: Path) -> None:
        """Leaves out what was erased later in this run, and gives merged sessions' events to their users."""
        with pq.ParquetFile(partial) as written:
            self._result.events = written.metadata.num_rows
            if not self._notes:
                return
            settled = partial.with_suffix(".settled")
            notes = Notes(self._notes)
            num_kept = 0
            with pq.ParquetWriter(settled, EVENT_SCHEMA, compression="zstd") as writer:
                for batch in written.iter_batches(batch_size=_ROWS_AT_ONCE):
                    kept = pa.Table.from_pylist(list(_settled(batch.to_pylist(), notes)), schema=EVENT_SCHEMA)
                    num_kept += len(kept)
                    writer.write_table(kept)
        self._result.erased = self._result.events - num_kept
        self._result.events = num_kept
        settled.replace(partial)


def _settled(rows: list[dict[str, Any]], notes: Notes) -> Iterator[dict[str, Any]]:
    for row in rows:
        user_id = notes.owner_of(row["user_id"], row["session_id"], parse_position(row["log_id"]))
        if user_id is not None:
            yield row | {"user_id": user_id}


def _row(shard: int, position: Position, event: LoggedEvent) -> dict[str, Any]:
    owner = event.owner
    return {
        "user_id": session_user(owner.id) if owner.is_session else owner.id,
        "item_id": event.item_id,
        "timestamp": event.timestamp,
        "type": event.type,
        "rating": _rating(event.properties.get("rating")),
        "event_id": event.event_id,
        "session_id": owner.id if owner.is_session else None,
        "recommendation_id": event.recommendation_id,
        "properties": orjson.dumps(event.properties).decode() if event.properties else None,
        "shard": shard,
        "log_id": format_position(position),
    }


def _rating(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _MAX_RATING else None


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@app.command()
def main(
    redis_url: Annotated[str, typer.Option(help="redis://, rediss:// or unix:// of the service's Redis.")],
    out: Annotated[Path, typer.Option(help="The directory to export to; always the same one.")],
    cluster: Annotated[bool, typer.Option("--cluster", help="The url names a node of a Redis Cluster.")] = False,
    trim: Annotated[bool, typer.Option("--trim", help="Remove from Redis what is exported.")] = False,
    remember_days: Annotated[
        int, typer.Option(help="How long an event is recognised should it come again.", min=1)
    ] = 90,
    skip_trimmed: Annotated[
        bool, typer.Option("--skip-trimmed", help="Go on although another directory has what is missing here.")
    ] = False,
    with_console: Annotated[
        bool, typer.Option("--with-console", help="Export the events that were sent from the console, too.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that Redis has for each answer.", min=0.1)] = 10.0,
) -> None:
    """Export what the event log has and the directory has not."""
    started = time.monotonic()
    options = ExportOptions(
        trim=trim, remember_days=remember_days, skip_trimmed=skip_trimmed, with_console=with_console
    )
    with EventStream(redis_url, cluster=cluster, timeout_seconds=timeout) as stream:
        result = export_events(stream, out, options)
        waiting = stream.count()
    job.report({"out": out, **asdict(result), "in_log": waiting, "seconds": round(time.monotonic() - started, 3)})


if __name__ == "__main__":
    job.run(app)
