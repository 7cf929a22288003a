"""A dataset: what ``offline.import_data`` writes and every other job reads.

::

    DATASET/items.parquet          item_id, title (strings), any typed attributes; one row an item
    DATASET/interactions.parquet   user_id, item_id (strings), timestamp (int64), type (string),
                                   rating (float32); grouped by user, within one by timestamp, then by
                                   input order
    DATASET/dataset.json           counts, time unit, and what was wrong with the source
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from model_store.catalogue.catalogue import ITEM_ID, POPULARITY, Catalogue
from model_store.errors import InvalidInput

ITEMS_FILE = "items.parquet"
INTERACTIONS_FILE = "interactions.parquet"
DESCRIPTION_FILE = "dataset.json"
SCHEMA_VERSION = 1
INTERACTION_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("type", pa.string()),
        pa.field("rating", pa.float32()),
    ]
)
TimeUnit = Literal["seconds", "rank"]
_ROWS_PER_READ = 1 << 19


class DatasetDescription(BaseModel, frozen=True):
    """``dataset.json``.

    Attributes:
        schema_version: Of the directory's layout.
        source: The format that it was imported from.
        time_unit: ``seconds`` since 1970 (UTC), or ``rank``: timestamps that only order, such as 0, 1, 2.
        num_users: U.
        num_items: N, items without interactions included.
        num_interactions: M.
        report: Per source file the rows read, the bad ones counted and some of them with line and reason.
    """

    schema_version: int = SCHEMA_VERSION
    source: str
    time_unit: TimeUnit
    num_users: int
    num_items: int
    num_interactions: int
    report: dict[str, Any]


@dataclass(frozen=True)
class UserHistory:
    """One user's interactions, oldest first.

    Attributes:
        item_indices: (L,) int32, 1..N.
        timestamps: (L,) int64 seconds, or ranks.
    """

    item_indices: np.ndarray
    timestamps: np.ndarray


@dataclass(frozen=True)
class UserSequences:
    """The interactions of U users in flat arrays.

    Attributes:
        user_ids: U ids.
        offsets: (U + 1,) int64; user ``i`` owns ``[offsets[i], offsets[i + 1])``.
        item_indices: (M,) int32, 1..N; within a user oldest first.
        timestamps: (M,) int64 seconds, or ranks.
    """

    user_ids: list[str]
    offsets: np.ndarray
    item_indices: np.ndarray
    timestamps: np.ndarray

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def lengths(self) -> np.ndarray:
        """(U,) int64, interactions of each user."""
        return np.diff(self.offsets)

    def user(self, row: int) -> UserHistory:
        """The interactions of one user, as views.

        Args:
            row: 0..U-1.
        """
        events = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return UserHistory(self.item_indices[events], self.timestamps[events])


class Dataset:
    """A dataset directory, read when asked for. Make one with ``Dataset.open``."""

    def __init__(self, directory: Path, description: DatasetDescription) -> None:
        self.directory = directory
        self.description = description

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Opens a dataset directory.

        Raises:
            InvalidInput: It is not one, it is of a newer version, or a file of it is missing.
        """
        directory = Path(path)
        for name in (DESCRIPTION_FILE, ITEMS_FILE, INTERACTIONS_FILE):
            if not (directory / name).is_file():
                raise InvalidInput(
                    f"{directory} is not a dataset: it has no {name}; expected a directory written by "
                    "offline.import_data"
                )
        file = directory / DESCRIPTION_FILE
        try:
            content = json.loads(file.read_text())
            version = content.get("schema_version") if isinstance(content, dict) else None
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise InvalidInput(f"{file}: schema_version {version}, expected at most {SCHEMA_VERSION}")
            return cls(directory, DatasetDescription.model_validate(content))
        except (ValueError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise InvalidInput(f"{file} is not a dataset description: {reason}") from error

    @property
    def time_unit(self) -> TimeUnit:
        """``seconds`` or ``rank``."""
        return self.description.time_unit

    @property
    def report(self) -> dict[str, Any]:
        """What the import found: rows, bad rows and samples of them, per source file."""
        return self.description.report

    @functools.cached_property
    def items(self) -> pa.Table:
        """All items: item_id, title, attributes; row ``i`` has ``item_index`` ``i + 1``."""
        return _readable(self.directory / ITEMS_FILE).read()

    def catalogue(self) -> Catalogue:
        """The items, with their number of interactions as popularity.

        Raises:
            InvalidInput: No items, or an id twice.
        """
        return self._catalogue

    def sequences(self) -> UserSequences:
        """All interactions by user, oldest first. Kept in memory: 12 bytes an interaction.

        Raises:
            InvalidInput: An interaction is of an item that is not among the items.
        """
        return self._sequences

    @functools.cached_property
    def _catalogue(self) -> Catalogue:
        counts = np.bincount(self.sequences().item_indices, minlength=self.items.num_rows + 1)[1:]
        column = pa.array(counts.astype(np.int64))
        return Catalogue.from_table(self.items.append_column(POPULARITY, column))

    @functools.cached_property
    def _sequences(self) -> UserSequences:
        return read_sequences(self.directory / INTERACTIONS_FILE, self.items.column(ITEM_ID))


def read_sequences(path: Path, item_ids: pa.ChunkedArray) -> UserSequences:
    """Reads interactions into flat arrays, batch by batch.

    Args:
        path: ``interactions.parquet``, grouped by user.
        item_ids: (N,) strings; their position + 1 becomes the item_index.

    Raises:
        InvalidInput: An item is not among ``item_ids``, or the file is not Parquet.
    """
    users: list[str] = []
    starts, items, times = [], [], []
    num_rows = 0
    for batch in _batches(path):
        indices = pc.index_in(batch.column("item_id"), value_set=item_ids.combine_chunks())
        if indices.null_count:
            unknown = batch.column("item_id").filter(indices.is_null())[0].as_py()
            raise InvalidInput(f"{path} has an interaction with item {unknown!r}, which is not in {ITEMS_FILE}")
        firsts = _first_rows(batch.column("user_id"), users[-1] if users else None)
        users.extend(batch.column("user_id").take(pa.array(firsts)).to_pylist())
        starts.append(firsts + num_rows)
        items.append(indices.to_numpy(zero_copy_only=False).astype(np.int32) + np.int32(1))
        times.append(batch.column("timestamp").to_numpy())
        num_rows += batch.num_rows
    empty = np.zeros(0, dtype=np.int64)
    return UserSequences(
        user_ids=users,
        offsets=np.concatenate([*starts, [num_rows]]).astype(np.int64),
        item_indices=np.concatenate([empty.astype(np.int32), *items]),
        timestamps=np.concatenate([empty, *times]),
    )


def _first_rows(users: pa.Array, previous: str | None) -> np.ndarray:
    """Rows at which another user begins."""
    if not len(users):
        return np.zeros(0, dtype=np.int64)
    is_first = np.ones(len(users), dtype=bool)
    is_first[0] = users[0].as_py() != previous
    is_first[1:] = pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)).to_numpy(zero_copy_only=False)
    return np.flatnonzero(is_first)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    columns = ["user_id", "item_id", "timestamp"]
    yield from _readable(path).iter_batches(batch_size=_ROWS_PER_READ, columns=columns)


def _readable(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is not a Parquet file: {' '.join(str(error).split())}") from error
