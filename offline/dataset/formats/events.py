"""What ``offline.export_events`` wrote: the events of a running service, the same loop's next input.

Merges and erasures hold for all events before them, in whichever run these were exported: a session's events are its
user's, and an erased user's are left out. Items come from a file of their own, as in the canonical form.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model_store.errors import InvalidInput
from offline.dataset.formats import canonical
from offline.dataset.formats.rows import RawInteraction, RowLog, Source
from offline.export.files import EVENT_SCHEMA, MANIFEST_FILE, read_manifest
from offline.export.notes import Notes, read_notes
from offline.redis.event_stream import parse_position

_ROWS_AT_ONCE = 20_000
_COLUMNS = ("user_id", "item_id", "timestamp", "type", "rating", "event_id", "session_id", "log_id")


def source(items: Path, directory: Path, *, types: Collection[str] = (), interactions: Path | None = None) -> Source:
    """Describes an export.

    Args:
        items: Of the catalogue, in the canonical form.
        directory: Of the export.
        types: Of events that are interactions; all if empty.
        interactions: What happened before the service did, in the canonical form.

    Raises:
        InvalidInput: The directory has no export, or a file that counts is missing or damaged.
    """
    if not (directory / MANIFEST_FILE).is_file():
        raise InvalidInput(
            f"{directory} has no {MANIFEST_FILE}: expected a directory that offline.export_events has written"
        )
    manifest = read_manifest(directory)
    notes = Notes(read_notes(directory / run.notes for run in manifest.runs if run.notes))
    reader = _EventReader(notes, types)
    files = [directory / run.events for run in manifest.runs if run.events]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise InvalidInput(f"{missing[0]} does not exist, but {MANIFEST_FILE} says that it counts")
    before = () if interactions is None else ((interactions, canonical.read_interactions),)
    return Source(
        format="events",
        item_files=((items, canonical.read_items),),
        interaction_files=(*before, *((path, reader.read) for path in files)),
        time_unit="seconds",
        checked_files=frozenset(files),
    )


class _EventReader:
    """Reads files of events, one after the other."""

    def __init__(self, notes: Notes, types: Collection[str]) -> None:
        self._notes = notes
        self._types = frozenset(types)
        # Only they can have the same event twice: once reported for the session and once for the user.
        self._events_of_merged: dict[str, set[str]] = {user: set() for user in notes.merged_users}

    def read(self, path: Path, _: RowLog) -> Iterator[RawInteraction]:
        """Yields the events of one file that count; none of them is bad, as the service has checked them."""
        line = 0
        for row in _rows(path):
            line += 1
            if self._types and row["type"] not in self._types:
                continue
            user_id = self._notes.owner_of(row["user_id"], row["session_id"], parse_position(row["log_id"]))
            if user_id is None or self._is_repeated(user_id, row["event_id"]):
                continue
            yield RawInteraction(line, user_id, row["item_id"], row["timestamp"], row["type"], row["rating"])

    def _is_repeated(self, user_id: str, event_id: str) -> bool:
        known = self._events_of_merged.get(user_id)
        if known is None:
            return False
        is_repeated = event_id in known
        known.add(event_id)
        return is_repeated


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(EVENT_SCHEMA):
                raise InvalidInput(f"{path} has columns {file.schema_arrow.names}, expected {EVENT_SCHEMA.names}")
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(_COLUMNS)):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} cannot be read: {' '.join(str(error).split())}") from error
