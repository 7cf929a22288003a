"""Writes a dataset from streams of items and interactions, in bounded memory and all or nothing.

Interactions are grouped and ordered by an external sort: they are spilled into partitions by a hash of the
user, and then each partition, a small part of the log, is sorted by itself. Only the items and one partition
are in memory.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model_store.artifacts.durable import sync_directory, sync_tree
from model_store.errors import InvalidInput
from offline.dataset.dataset import (
    DESCRIPTION_FILE,
    INTERACTION_SCHEMA,
    INTERACTIONS_FILE,
    ITEMS_FILE,
    DatasetDescription,
    TimeUnit,
)
from offline.dataset.formats.rows import Interaction, Item
from offline.dataset.item_table import ItemTable

LOGGER = logging.getLogger(__name__)
# seconds since 1970 of any log that we could meet are above this (1973-03-03), ranks below it
FIRST_PLAUSIBLE_SECOND = 100_000_000
_NUM_PARTITIONS = 64
_ROWS_PER_SPILL = 1 << 18
_ROWS_PER_GROUP = 1 << 19
_MIN_USERS = 2
_ORDER = "input_order"
_SPILL_SCHEMA = INTERACTION_SCHEMA.append(pa.field(_ORDER, pa.int64()))


@dataclass(frozen=True)
class WriteOptions:
    """How to write a dataset.

    Attributes:
        source: Name of the format that it comes from.
        time_unit: Of the timestamps; None = ``rank`` if all are below ``FIRST_PLAUSIBLE_SECOND``,
            else ``seconds``.
        overwrite: Replace a dataset that is there already.
        repeated_items: Whether an item id that occurs twice is an error, or its first row counts.
        only_interacted: Leave out items without interactions.
    """

    source: str
    time_unit: TimeUnit | None = None
    overwrite: bool = False
    repeated_items: Literal["error", "first"] = "error"
    only_interacted: bool = False


def write_dataset(
    out: Path,
    *,
    items: Iterable[Item],
    interactions: Iterable[Interaction],
    options: WriteOptions,
    report: Callable[[], dict[str, Any]] = dict,
) -> DatasetDescription:
    """Writes a dataset directory; nothing is at ``out`` until all of it is.

    Args:
        out: The directory to make.
        items: Checked items, read first and once; their order becomes the item_index.
        interactions: Checked interactions, read once, in input order. Those of unknown items are left out and
            counted.
        options: How.
        report: Called at the end; its entries go into the description.

    Raises:
        InvalidInput: ``out`` is taken, no items, an item id twice, no interactions left, or fewer than two
            users.
    """
    _check_target(out, options.overwrite)
    with _staging(out) as staged:
        table = ItemTable(first_of_repeated=options.repeated_items == "first")
        for item in items:
            table.add(item)
        if not len(table):
            raise InvalidInput("the catalogue is empty: 0 items, expected at least 1")
        log = _InteractionLog(table, staged / "spill")
        log.spill(interactions)
        time_unit = options.time_unit or log.guess_time_unit()
        num_users = log.write_sorted(staged / INTERACTIONS_FILE)
        if num_users < _MIN_USERS:
            raise InvalidInput(f"the dataset has {num_users} user, expected at least {_MIN_USERS}")
        is_kept = log.counts > 0 if options.only_interacted else np.ones(len(table), dtype=bool)
        pq.write_table(table.to_arrow(is_kept), staged / ITEMS_FILE, compression="zstd")
        description = DatasetDescription(
            source=options.source,
            time_unit=time_unit,
            num_users=num_users,
            num_items=int(is_kept.sum()),
            num_interactions=log.num_rows,
            report={
                **report(),
                "repeated_items": table.num_repeated,
                "interactions_of_unknown_items": log.num_unknown,
            },
        )
        (staged / DESCRIPTION_FILE).write_text(description.model_dump_json(indent=2) + "\n")
        _replace(out, staged)
    return description


class _InteractionLog:
    """The external sort.

    Args:
        table: The items.
        directory: Where the partitions go.
    """

    def __init__(self, table: ItemTable, directory: Path) -> None:
        self._table = table
        self._directory = directory
        self._latest = -1
        self.counts = np.zeros(len(table), dtype=np.int64)
        self.num_rows = 0
        self.num_unknown = 0

    def spill(self, interactions: Iterable[Interaction]) -> None:
        """Writes the interactions of known items into partitions by user."""
        self._directory.mkdir()
        rows = iter(interactions)
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(pa.ipc.new_file(path, _SPILL_SCHEMA)) for path in self._partition_paths()]
            while batch := list(islice(rows, _ROWS_PER_SPILL)):
                self._spill_batch(batch, writers)
        if not self.num_rows:
            unknown = f"; {self.num_unknown} are of items that are not among the items" if self.num_unknown else ""
            raise InvalidInput(f"there are no interactions, expected at least 1{unknown}")
        if self.num_unknown:
            LOGGER.warning("left out %d interactions with items that are not among the items", self.num_unknown)

    def guess_time_unit(self) -> TimeUnit:
        """``rank`` if every timestamp is too early to be a moment."""
        return "rank" if self._latest < FIRST_PLAUSIBLE_SECOND else "seconds"

    def write_sorted(self, path: Path) -> int:
        """Writes all interactions by user, timestamp and input order, and removes the partitions.

        Returns:
            How many users there are.
        """
        num_users = 0
        pending: list[pa.Table] = []
        with pq.ParquetWriter(path, INTERACTION_SCHEMA, compression="zstd") as writer:
            for partition in self._partition_paths():
                part = _sorted_partition(partition)
                num_users += len(part.column("user_id").unique())
                partition.unlink()
                pending.append(part.drop_columns([_ORDER]))
                if sum(len(waiting) for waiting in pending) >= _ROWS_PER_GROUP:
                    writer.write_table(pa.concat_tables(pending))
                    pending.clear()
            if pending:
                writer.write_table(pa.concat_tables(pending))
        self._directory.rmdir()
        return num_users

    def _partition_paths(self) -> list[Path]:
        return [self._directory / f"{number:03d}.arrow" for number in range(_NUM_PARTITIONS)]

    def _spill_batch(self, batch: list[Interaction], writers: list[Any]) -> None:
        rows = np.fromiter((self._table.row_of(row.item_id) for row in batch), dtype=np.int64, count=len(batch))
        is_known = rows >= 0
        self.num_unknown += int(len(batch) - is_known.sum())
        if not is_known.all():
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
        self._latest = max(self._latest, max(row.timestamp for row in batch))
        table = pa.Table.from_arrays([*columns, pa.array(order)], schema=_SPILL_SCHEMA)
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


def _sorted_partition(path: Path) -> pa.Table:
    with pa.OSFile(str(path), "rb") as file:
        table = pa.ipc.open_file(file).read_all()
    return table.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), (_ORDER, "ascending")])


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InvalidInput(f"{out} is a file, expected a directory to make")
    if any(out.iterdir()):
        if not (out / DESCRIPTION_FILE).exists():
            raise InvalidInput(f"{out} has something else than a dataset in it: choose another --out")
        if not overwrite:
            raise InvalidInput(f"{out} has a dataset already: choose another --out, or replace it with --overwrite")


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A directory beside ``out``, removed at the end if it is still there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    staged = Path(tempfile.mkdtemp(prefix=f".{out.name}.{os.getpid()}.", dir=out.parent))
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _remove_abandoned(out: Path) -> None:
    """Removes what imports to the same place left when they were killed."""
    for path in out.parent.glob(f".{out.name}.*.*"):
        number = path.name.removeprefix(f".{out.name}.").split(".")[0]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _replace(out: Path, staged: Path) -> None:
    sync_tree(staged)
    staged.chmod(0o755)
    if out.exists():
        # two renames, for a directory that is not empty cannot be renamed over
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.{os.getpid()}.", dir=out.parent) as old:
            out.rename(Path(old) / out.name)
            staged.rename(out)
    else:
        staged.rename(out)
    sync_directory(out.parent)
