"""The catalogue: which items there are, in which row, with which attributes.

``item_index`` is the row of the item counted from 1; 0 stands for padding and for unknown items.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_store.errors import ArtifactCorrupt, ArtifactNotFound, InvalidInput

ITEM_ID = "item_id"
TITLE = "title"
POPULARITY = "popularity"
CONTENT_HASH = "content_hash"
_NOT_ATTRIBUTES = frozenset({ITEM_ID, TITLE, POPULARITY, CONTENT_HASH})
# Values of one column that are kept as objects of Python; Arrow takes as long to find one as a search takes.
_MAX_KEPT_VALUES = 20_000


class Catalogue:
    """Items by id and by index. Immutable, and safe to read from several threads."""

    def __init__(self, table: pa.Table, item_ids: list[str]) -> None:
        """Use ``from_table`` or ``from_parquet``, which check the table."""
        self._table = table
        self._item_ids = item_ids
        self._index_by_id = {item_id: row for row, item_id in enumerate(item_ids, start=1)}
        # asked for in every request, and slow to ask Arrow for
        self._attribute_names = [name for name in table.column_names if name not in _NOT_ATTRIBUTES]
        self._kept_values: dict[str, dict[int, Any]] = {name: {} for name in table.column_names}

    @classmethod
    def from_table(cls, table: pa.Table) -> "Catalogue":
        """Makes a catalogue of a table; row ``i`` becomes ``item_index`` ``i + 1``.

        Args:
            table: Columns ``item_id`` and ``title`` (strings), any attributes, maybe ``popularity`` (int64).

        Raises:
            InvalidInput: No rows, a missing or mistyped column, an empty or repeated item id.
        """
        for name in (ITEM_ID, TITLE):
            if name not in table.column_names:
                raise InvalidInput(f"items have no column {name!r}, only {table.column_names}")
        if table.num_rows == 0:
            raise InvalidInput("the catalogue is empty: 0 items, expected at least 1")
        table = table.combine_chunks()
        item_ids = _checked_item_ids(table.column(ITEM_ID))
        if POPULARITY in table.column_names and not pa.types.is_integer(table.schema.field(POPULARITY).type):
            raise InvalidInput(f"column {POPULARITY!r} is {table.schema.field(POPULARITY).type}, expected int64")
        return cls(table, item_ids)

    @classmethod
    def from_parquet(cls, path: Path) -> "Catalogue":
        """Reads a catalogue from a Parquet file.

        Raises:
            ArtifactNotFound: There is no such file.
            ArtifactCorrupt: It is not Parquet.
            InvalidInput: As ``from_table``.
        """
        try:
            table = pq.read_table(path)
        except FileNotFoundError as error:
            raise ArtifactNotFound(f"{path} does not exist") from error
        except pa.ArrowInvalid as error:
            raise ArtifactCorrupt(f"{path} is not a Parquet file: {error}") from error
        return cls.from_table(table)

    def __len__(self) -> int:
        return len(self._item_ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._index_by_id

    @property
    def table(self) -> pa.Table:
        """All columns, one row an item."""
        return self._table

    @property
    def item_ids(self) -> Sequence[str]:
        """(N,) item ids; ``item_ids[i]`` has ``item_index`` ``i + 1``."""
        return self._item_ids

    @property
    def attribute_names(self) -> Sequence[str]:
        """Columns that are neither id, title, popularity nor content hash."""
        return self._attribute_names

    def index_of(self, item_id: str) -> int:
        """The item's ``item_index`` in 1..N, or 0 if it is not in the catalogue."""
        return self._index_by_id.get(item_id, 0)

    def indices_of(self, item_ids: Iterable[str]) -> np.ndarray:
        """(len(item_ids),) int64, ``index_of`` for each."""
        get = self._index_by_id.get
        return np.array([get(item_id, 0) for item_id in item_ids], dtype=np.int64)

    def id_of(self, item_index: int) -> str:
        """The id of an item.

        Raises:
            InvalidInput: ``item_index`` is not in 1..N.
        """
        return self._item_ids[self._row(item_index)]

    def fields(self, item_index: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """What is known about an item: title and attributes that have a value (no nulls, no NaN).

        Args:
            item_index: In 1..N.
            names: Only these columns, in this order; all of title and attributes by default.

        Raises:
            InvalidInput: ``item_index`` is out of range, or a name is not a column.
        """
        row = self._row(item_index)
        if names is None:
            names = [TITLE, *self.attribute_names]
        values = ((name, self.column(name)[row].as_py()) for name in names)
        return {name: value for name, value in values if not _is_missing(value)}

    def column(self, name: str) -> pa.ChunkedArray:
        """(N,) values of one column.

        Raises:
            InvalidInput: There is no such column.
        """
        if name not in self._table.column_names:
            raise InvalidInput(f"items have no field {name!r}, only {sorted(self._table.column_names)}")
        return self._table.column(name)

    def values(self, name: str, item_indices: Sequence[int]) -> list[Any]:
        """Values of one column, as Python's; do not write to them. Those of items that are asked for often are kept.

        Args:
            name: Of the column.
            item_indices: In 1..N.

        Raises:
            InvalidInput: There is no such column.
        """
        kept = self._kept_values.get(name, {})
        try:
            return [kept[item_index] for item_index in item_indices]
        except KeyError:
            values = self.column(name).take(pa.array(np.array(item_indices, dtype=np.int64) - 1)).to_pylist()
        if len(kept) >= _MAX_KEPT_VALUES:
            kept.clear()
        kept.update(zip(item_indices, values, strict=True))
        return list(values)

    @functools.cached_property
    def popularity(self) -> np.ndarray:
        """(N,) int64, how often each item was interacted with; 0 where that is not known."""
        if POPULARITY not in self._table.column_names:
            return np.zeros(len(self), dtype=np.int64)
        filled = pc.fill_null(self._table.column(POPULARITY).cast(pa.int64()), 0)
        return filled.to_numpy()

    @functools.cached_property
    def title_words(self) -> list[str]:
        """All words of all titles in lower case, each once."""
        words = pc.split_pattern_regex(pc.utf8_lower(self._table.column(TITLE)), r"[^\p{L}\p{N}]+")
        return [word for word in pc.unique(pc.list_flatten(words)).to_pylist() if word]

    def popular(self) -> np.ndarray:
        """(N,) int64, every ``item_index``: the most popular first, then by row. Do not write to it."""
        return self._by_popularity

    @functools.cached_property
    def _by_popularity(self) -> np.ndarray:
        order = np.argsort(-self.popularity, kind="stable").astype(np.int64) + 1
        order.flags.writeable = False
        return order

    def _row(self, item_index: int) -> int:
        if not 1 <= item_index <= len(self):
            raise InvalidInput(f"item_index {item_index} is not in 1..{len(self)}")
        return int(item_index) - 1


def _checked_item_ids(column: pa.ChunkedArray) -> list[str]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InvalidInput(f"column {ITEM_ID!r} is {column.type}, expected string")
    item_ids: list[str] = column.to_pylist()
    seen: dict[str, int] = {}
    for row, item_id in enumerate(item_ids, start=1):
        if not item_id:
            raise InvalidInput(f"item {row} has an empty {ITEM_ID}")
        first = seen.setdefault(item_id, row)
        if first != row:
            raise InvalidInput(f"{ITEM_ID} {item_id!r} occurs twice, as items {first} and {row}")
    return item_ids


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_item_indices(item_indices: np.ndarray, *, num_items: int) -> None:
    """Refuses (...) integers that are not in 0..N.

    Raises:
        InvalidInput: An index is out of range.
    """
    if item_indices.size and (item_indices.min() < 0 or item_indices.max() > num_items):
        raise InvalidInput(f"item_index spans {item_indices.min()}..{item_indices.max()}, expected 0..{num_items}")
