"""The directory that ``offline.export_events`` writes.

::

    DIR/export.json             which files count, and up to where each shard's log is in them
    DIR/events-000001.parquet   the events of run 1: a dataset's interactions, and what else is known of them
    DIR/notes-000001.parquet    the merges and erasures of run 1, which hold for the events of earlier runs too
    DIR/ids-000001.npy          hashes of the events of one or more runs, to recognise them should they come again

A run writes its files first and ``export.json`` last, in one atomic step: what it names is whole, and what it does not
name does not exist for anybody, as the next run removes it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import BaseModel, Field, ValidationError

from model_store.artifacts.durable import write_atomically
from model_store.errors import InvalidInput
from offline.dataset.dataset import INTERACTION_SCHEMA
from offline.redis.event_stream import Position, format_position, parse_position

MANIFEST_FILE = "export.json"
SCHEMA_VERSION = 1
EVENT_SCHEMA = pa.schema(
    [
        *INTERACTION_SCHEMA,
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("session_id", pa.string()),
        pa.field("recommendation_id", pa.string()),
        pa.field("properties", pa.string()),
        pa.field("shard", pa.int16(), nullable=False),
        pa.field("log_id", pa.string(), nullable=False),
    ]
)
NOTE_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int16(), nullable=False),
        pa.field("log_id", pa.string(), nullable=False),
        # of a merge
        pa.field("session_id", pa.string()),
        pa.field("user_id", pa.string()),
        # of an erasure
        pa.field("owner_hash", pa.string()),
    ]
)
_OURS = re.compile(r"(events|notes|ids)-\d{6,}\.(parquet|npy)(\.partial|\.settled)?")
_LOCK_FILE = ".lock"


class Run(BaseModel, frozen=True):
    """One run that was committed.

    Attributes:
        number: From 1.
        exported_at: When.
        num_events: Rows of its events.
        events: File of its events, if it had any.
        notes: File of its merges and erasures, if it had any.
    """

    number: int
    exported_at: datetime
    num_events: int
    events: str | None = None
    notes: str | None = None


class SeenIds(BaseModel, frozen=True):
    """One file of hashes.

    Attributes:
        file: Its name.
        num_ids: How many hashes are in it.
        until: When the newest of its events were exported.
    """

    file: str
    num_ids: int
    until: datetime


class Manifest(BaseModel, frozen=True):
    """``export.json``.

    Attributes:
        schema_version: Of the directory's layout.
        positions: Per shard, up to where its log is in the files.
        runs: The oldest first.
        ids: Files of hashes, the largest first.
    """

    schema_version: int = SCHEMA_VERSION
    positions: dict[int, Annotated[str, Field(pattern=r"^\d+-\d+$")]] = {}
    runs: tuple[Run, ...] = ()
    ids: tuple[SeenIds, ...] = ()

    @property
    def next_run(self) -> int:
        """The number of the run that comes next."""
        return self.runs[-1].number + 1 if self.runs else 1

    def position(self, shard: int) -> Position:
        """Up to where a shard's log is in the files."""
        return parse_position(self.positions.get(shard, "0-0"))

    def files(self) -> set[str]:
        """The names of all files that count."""
        names = {one.file for one in self.ids}
        for run in self.runs:
            names |= {name for name in (run.events, run.notes) if name is not None}
        return names

    def after(self, run: Run, positions: dict[int, Position], ids: tuple[SeenIds, ...]) -> "Manifest":
        """The manifest once a run is committed."""
        merged = self.positions | {shard: format_position(position) for shard, position in positions.items()}
        return Manifest(positions=merged, runs=(*self.runs, run), ids=ids)


def read_manifest(directory: Path) -> Manifest:
    """Reads what a directory has; an empty manifest where there is none.

    Raises:
        InvalidInput: It is damaged or of a newer version, or a file that it names is missing.
    """
    path = directory / MANIFEST_FILE
    if not path.exists():
        return Manifest()
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise InvalidInput(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if manifest.schema_version > SCHEMA_VERSION:
        raise InvalidInput(f"{path}: schema_version {manifest.schema_version}, expected at most {SCHEMA_VERSION}")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Commits: from here on the files that it names count."""
    write_atomically(directory / MANIFEST_FILE, manifest.model_dump_json(indent=1, exclude_none=True).encode())


def remove_strays(directory: Path, manifest: Manifest) -> None:
    """Removes files of runs that were killed before they were committed, and of hashes that were merged since."""
    named = manifest.files()
    for path in directory.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in named:
            path.unlink()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Makes the directory if it is missing, and keeps other runs out of it; the kernel ends that with the process.

    Raises:
        InvalidInput: Another run is in it, or it cannot be used.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / _LOCK_FILE).open("ab")
    except OSError as error:
        raise InvalidInput(f"--out {directory} cannot be used: {error.strerror}") from error
    with file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(f"another export writes to {directory} now") from None
        yield


def now() -> datetime:
    """To the second, UTC."""
    return datetime.now(UTC).replace(microsecond=0)
