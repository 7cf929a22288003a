"""What merges and erasures mean for exported events: whose an event is, or that it may not be used any more."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model_store.errors import InvalidInput
from model_store.people.event_log import LoggedErasure, LoggedMerge
from model_store.people.owner import Owner
from offline.export.files import NOTE_SCHEMA
from offline.redis.event_stream import Position, format_position, parse_position

# Sessions that were never merged are users of their own in a dataset.
SESSION_PREFIX = "session:"
# A dataset's ids have at most 256 characters.
_MAX_SESSION_CHARACTERS = 240

Note = tuple[int, Position, LoggedMerge | LoggedErasure]


class Notes:
    """Merges and erasures, of one run or of all."""

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        self._erased: dict[str, Position] = {}
        self._merged: dict[str, list[tuple[Position, str]]] = {}
        for _, position, note in notes:
            if isinstance(note, LoggedErasure):
                self._erased[note.owner_hash] = max(position, self._erased.get(note.owner_hash, position))
            else:
                self._merged.setdefault(note.session_id, []).append((position, note.user_id))
        for merges in self._merged.values():
            merges.sort()
        self.merged_users = frozenset(user for merges in self._merged.values() for _, user in merges)

    def owner_of(self, user_id: str, session_id: str | None, position: Position) -> str | None:
        """The user that an event counts for in a dataset.

        Args:
            user_id: Whose it is, if it is no session's.
            session_id: The session that it was reported for, if any.
            position: Of the event in its shard's log.

        Returns:
            None if it was erased.
        """
        if session_id is None:
            return None if self._is_erased(Owner(user_id), position) else user_id
        if self._is_erased(Owner(session_id, is_session=True), position):
            return None
        for merged_at, user in self._merged.get(session_id, ()):
            if merged_at > position:
                # Only what was the user's by then was erased with them.
                return None if self._is_erased(Owner(user), merged_at) else user
        return session_user(session_id)

    def _is_erased(self, owner: Owner, position: Position) -> bool:
        # Positions of two shards are compared by their time, which is Redis' own clock in both.
        return bool(self._erased) and self._erased.get(owner.hash, (-1, 0)) > position


def session_user(session_id: str) -> str:
    """The user that stands for a session which was not merged into one."""
    if len(session_id) > _MAX_SESSION_CHARACTERS:
        session_id = hashlib.sha256(session_id.encode()).hexdigest()
    return f"{SESSION_PREFIX}{session_id}"


def write_notes(path: Path, notes: list[Note]) -> None:
    """Writes the notes of a run."""
    rows: list[dict[str, Any]] = []
    for shard, position, note in notes:
        row: dict[str, Any] = {"shard": shard, "log_id": format_position(position)}
        if isinstance(note, LoggedMerge):
            row |= {"session_id": note.session_id, "user_id": note.user_id}
        else:
            row |= {"owner_hash": note.owner_hash}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=NOTE_SCHEMA), path, compression="zstd")


def read_notes(paths: Iterable[Path]) -> Iterator[Note]:
    """Reads the notes of runs.

    Raises:
        InvalidInput: A file cannot be read.
    """
    for path in paths:
        try:
            rows = pq.read_table(path, schema=NOTE_SCHEMA).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        for row in rows:
            note: LoggedMerge | LoggedErasure = (
                LoggedErasure(row["owner_hash"])
                if row["owner_hash"] is not None
                else LoggedMerge(row["session_id"], row["user_id"])
            )
            yield row["shard"], parse_position(row["log_id"]), note
