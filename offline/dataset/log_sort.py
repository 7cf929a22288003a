"""The external sort of a log: spilled into partitions by a hash of the user, each sorted by itself.

Only the items and one partition are in memory.
"""

import contextlib
import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_store.errors import InvalidInput
from model_store.people.moments import FIRST_PLAUSIBLE_SECOND
from offline.dataset.dataset import INTERACTION_SCHEMA, TimeUnit
from offline.dataset.formats.rows import Interaction
from offline.dataset.item_table import ItemTable
from offline.dataset.unknown_items import UnknownItems

Order = Literal["auto", "oldest-first", "newest-first"]

_NUM_PARTITIONS = 64
_ROWS_PER_SPILL = 1 << 18
_ROWS_PER_GROUP = 1 << 19
_EVENTS_TO_EVALUATE = 3
# steps back in time for each step forward, in a log that is newest first; a few rows are out of place in any log
_STEPS_BACK = 20
_MIN_STEPS_BACK = 3
_ORDER = "input_order"
_SPILL_SCHEMA = INTERACTION_SCHEMA.append(pa.field(_ORDER, pa.int64()))
_IDENTITY = ["user_id", "item_id", "timestamp", "type"]


class LogSort:
    """The external sort, and what it finds on its way.

    Args:
        table: The items.
        directory: Where the partitions go.

    Attributes:
        counts: (N,) int64, interactions of each item, identical ones included.
        unknown: Interactions that were left out.
        num_rows: Interactions that were kept.
        num_identical: Interactions that were left out because there is the same one before.
        num_users: Users.
        num_short_users: Users who have too few interactions to be evaluated.
        earliest: Timestamp.
        latest: Timestamp.
    """

    def __init__(self, table: ItemTable, directory: Path) -> None:
        self._table = table
        self._directory = directory
        self._steps = _Steps()
        self.counts = np.zeros(len(table), dtype=np.int64)
        self.unknown = UnknownItems()
        self.num_rows = self.num_identical = self.num_users = self.num_short_users = 0
        self.earliest, self.latest = 2**63 - 1, -1

    def spill(self, interactions: Iterable[Interaction]) -> None:
        """Writes the interactions of known items into partitions by user.

        Raises:
            InvalidInput: None is left.
        """
        self._directory.mkdir()
        rows = iter(interactions)
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(pa.ipc.new_file(path, _SPILL_SCHEMA)) for path in self._partition_paths()]
            while batch := list(islice(rows, _ROWS_PER_SPILL)):
                self._spill_batch(batch, writers)
        if not self.num_rows:
            unknown = f"; {self.unknown.sentence(self._table.item_ids)}" if self.unknown.count else ""
            raise InvalidInput(f"there are no interactions, expected at least 1{unknown}")

    @property
    def is_newest_first(self) -> bool:
        """Whether time runs backwards in the input: in the whole of it, or within each user."""
        return self._steps.are_back()

    def guess_time_unit(self) -> TimeUnit:
        """``rank`` if every timestamp is too early to be a moment."""
        return "rank" if self.latest < FIRST_PLAUSIBLE_SECOND else "seconds"

    def write_sorted(self, path: Path, *, newest_first: bool, keep_identical: bool) -> None:
        """Writes all interactions by user, timestamp and input order, and removes the partitions.

        Args:
            path: The Parquet file to make.
            newest_first: Of two interactions with one timestamp, the later row is the earlier one.
            keep_identical: Keep all of several interactions of the same user, item, timestamp and type.
        """
        pending: list[pa.Table] = []
        with pq.ParquetWriter(path, INTERACTION_SCHEMA, compression="zstd") as writer:
            for partition in self._partition_paths():
                part = _sorted_partition(partition, newest_first=newest_first)
                if not keep_identical:
                    part = self._without_repeats(part)
                self._count_users(part)
                partition.unlink()
                pending.append(part.drop_columns([_ORDER]))
                if sum(len(waiting) for waiting in pending) >= _ROWS_PER_GROUP:
                    writer.write_table(pa.concat_tables(pending))
                    pending.clear()
            if pending:
                writer.write_table(pa.concat_tables(pending))
        self._directory.rmdir()

    def _count_users(self, part: pa.Table) -> None:
        lengths = pc.value_counts(part.column("user_id")).field("counts").to_numpy(zero_copy_only=False)
        self.num_users += len(lengths)
        self.num_short_users += int((lengths < _EVENTS_TO_EVALUATE).sum())

    def _without_repeats(self, part: pa.Table) -> pa.Table:
        """Leaves the first of identical rows; only rows that share user and timestamp are compared."""
        is_tied = _is_tied(part)
        if not is_tied.any():
            return part
        positions = np.flatnonzero(is_tied)
        tied = part.select(_IDENTITY).take(pa.array(positions)).append_column("position", pa.array(positions))
        firsts = tied.group_by(_IDENTITY).aggregate([("position", "min")]).column("position_min").to_numpy()
        is_kept = ~is_tied
        is_kept[firsts] = True
        num_repeats = len(part) - int(is_kept.sum())
        self.num_identical += num_repeats
        self.num_rows -= num_repeats
        return part.filter(pa.array(is_kept)) if num_repeats else part

    def _partition_paths(self) -> list[Path]:
        return [self._directory / f"{number:03d}.arrow" for number in range(_NUM_PARTITIONS)]

    def _spill_batch(self, batch: list[Interaction], writers: list[Any]) -> None:
        rows = np.fromiter((self._table.row_of(row.item_id) for row in batch), dtype=np.int64, count=len(batch))
        is_known = rows >= 0
        if not is_known.all():
            self.unknown.add(row.item_id for row, known in zip(batch, is_known, strict=True) if not known)
            batch = [row for row, known in zip(batch, is_known, strict=True) if known]
        if not batch:
            return
        self.counts += np.bincount(rows[is_known], minlength=len(self.counts))
        columns = [
            pa.array(column, type=kind.type)
            for column, kind in zip(zip(*batch, strict=True), INTERACTION_SCHEMA, strict=True)
        ]
        order = np.arange(self.num_rows, self.num_rows + len(batch))
        self.num_rows += len(batch)
        table = pa.Table.from_arrays([*columns, pa.array(order)], schema=_SPILL_SCHEMA)
        times = table.column("timestamp").to_numpy()
        self.earliest, self.latest = min(self.earliest, int(times.min())), max(self.latest, int(times.max()))
        self._steps.add(table)
        partitions = np.fromiter(
            (zlib.crc32(row.user_id.encode()) % _NUM_PARTITIONS for row in batch),
            dtype=np.int64,
            count=len(batch),
        )
        by_partition = np.argsort(partitions, kind="stable")
        table = table.take(pa.array(by_partition))
        ends = np.cumsum(np.bincount(partitions, minlength=_NUM_PARTITIONS))
        start = 0
        for writer, end in zip(writers, ends.tolist(), strict=True):
            if end > start:
                writer.write_table(table.slice(start, end - start))
            start = end


class _Steps:
    """Counts in which direction time runs from one row to the next: between all, and between those of one user."""

    def __init__(self) -> None:
        self._back, self._forward = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
        self._last: pa.Table | None = None

    def add(self, table: pa.Table) -> None:
        """Counts the steps within rows that follow those of the last call."""
        table = table.select(["user_id", "timestamp"])
        table, self._last = pa.concat_tables([self._last or table[:0], table]), table[-1:]
        steps = np.diff(table.column("timestamp").to_numpy())
        is_same_user = _is_repeated(table.column("user_id"))[1:]
        for place, chosen in enumerate((steps, steps[is_same_user])):
            self._back[place] += np.count_nonzero(chosen < 0)
            self._forward[place] += np.count_nonzero(chosen > 0)

    def are_back(self) -> bool:
        """Whether hardly any step is forward, of all or of those within users."""
        return bool(((self._back >= _MIN_STEPS_BACK) & (self._back >= _STEPS_BACK * self._forward)).any())


def _sorted_partition(path: Path, *, newest_first: bool) -> pa.Table:
    with pa.OSFile(str(path), "rb") as file:
        table = pa.ipc.open_file(file).read_all()
    last = "descending" if newest_first else "ascending"
    return table.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), (_ORDER, last)])


def _is_tied(part: pa.Table) -> np.ndarray:
    """(M,) bool, whether a row has the user and the timestamp of the row before or after it."""
    times = part.column("timestamp").to_numpy()
    is_tied = np.zeros(len(part), dtype=bool)
    if len(part) > 1:
        is_like_previous = times[1:] == times[:-1]
        if is_like_previous.any():
            is_like_previous &= _is_repeated(part.column("user_id"))[1:]
        is_tied[1:] = is_like_previous
        is_tied[:-1] |= is_like_previous
    return is_tied


def _is_repeated(column: pa.ChunkedArray) -> np.ndarray:
    """(M,) bool, whether a row has the value of the row before it."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    is_repeated = np.zeros(len(values), dtype=bool)
    if len(values) > 1:
        is_repeated[1:] = pc.equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy(zero_copy_only=False)
    return is_repeated
