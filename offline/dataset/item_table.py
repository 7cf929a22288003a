"""Collects items into one Arrow table, whose columns get their types from what is in them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from model_store.catalogue.catalogue import CONTENT_HASH, ITEM_ID, POPULARITY, TITLE
from model_store.errors import InvalidInput
from offline.dataset.formats.rows import Item

_ROWS_PER_CHUNK = 1 << 14
_MAX_ATTRIBUTES = 256
_RESERVED = frozenset({ITEM_ID, TITLE, POPULARITY, CONTENT_HASH})
_TEXT_LIST = pa.list_(pa.string())


class ItemTable:
    """Items in the order they were added; a repeated id is an error, or ignored.

    Args:
        first_of_repeated: Let the first row of a repeated id count instead of refusing.
    """

    def __init__(self, *, first_of_repeated: bool = False) -> None:
        self._first_of_repeated = first_of_repeated
        self._rows: dict[str, int] = {}
        self._pending: list[Item] = []
        self._chunks: list[tuple[int, dict[str, pa.Array]]] = []
        self._names: dict[str, None] = {}
        self.num_repeated = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def item_ids(self) -> Iterable[str]:
        """The ids, in the order in which they were added."""
        return self._rows

    def row_of(self, item_id: str) -> int:
        """The row of an item from 0, or -1."""
        return self._rows.get(item_id, -1)

    def add(self, item: Item) -> None:
        """Appends an item.

        Raises:
            InvalidInput: The id is there already, or there are more attributes than a table can have.
        """
        if item.item_id in self._rows:
            if not self._first_of_repeated:
                where = f"{item.origin}: " if item.origin else ""
                raise InvalidInput(
                    f"{where}item_id {item.item_id!r} occurs twice, first as item {self._rows[item.item_id] + 1}: "
                    "expected once"
                )
            self.num_repeated += 1
            return
        self._rows[item.item_id] = len(self._rows)
        self._pending.append(item)
        if len(self._pending) == _ROWS_PER_CHUNK:
            self._close_chunk()

    def to_arrow(self, is_kept: np.ndarray) -> pa.Table:
        """The table: item_id, title, then attributes in the order in which they first appeared.

        Args:
            is_kept: (len(self),) bool, which rows.
        """
        self._close_chunk()
        columns = {}
        for name in (ITEM_ID, TITLE, *self._names):
            kinds = {chunk[name].type for _, chunk in self._chunks if name in chunk}
            kind = _common_type(kinds)
            arrays = [
                _cast(chunk[name], kind) if name in chunk else pa.nulls(size, kind) for size, chunk in self._chunks
            ]
            columns[name] = pa.chunked_array(arrays, type=kind)
        return pa.table(columns).filter(pa.array(is_kept))

    def _close_chunk(self) -> None:
        if not self._pending:
            return
        size = len(self._pending)
        values: dict[str, list[Any]] = {}
        for row, item in enumerate(self._pending):
            for name, value in item.attributes.items():
                # an attribute must not pass for a column with a meaning of its own
                column_name = f"{name}_attribute" if name in _RESERVED else name
                values.setdefault(column_name, [None] * size)[row] = value
        chunk = {name: _typed(column) for name, column in values.items()}
        for name in values:
            self._names.setdefault(name)
        if len(self._names) > _MAX_ATTRIBUTES:
            raise InvalidInput(
                f"items have more than {_MAX_ATTRIBUTES} different attributes, such as {name!r}: expected "
                "columns; put free-form ones into one attribute"
            )
        chunk[ITEM_ID] = pa.array([item.item_id for item in self._pending], pa.string())
        chunk[TITLE] = pa.array([item.title for item in self._pending], pa.string())
        self._chunks.append((size, chunk))
        self._pending = []


def _typed(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if len(kinds) == 1:
        kind = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), list: _TEXT_LIST}
        return pa.array(values, kind[kinds.pop()])
    if list in kinds:
        lists = [value if value is None or isinstance(value, list) else [_text(value)] for value in values]
        return pa.array(lists, _TEXT_LIST)
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _text(value: Any) -> str:
    # as Arrow spells it, so that chunks of one column agree
    return str(value).lower() if isinstance(value, bool) else str(value)


def _common_type(kinds: set[pa.DataType]) -> pa.DataType:
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds == {pa.int64(), pa.float64()}:
        return pa.float64()
    return _TEXT_LIST if _TEXT_LIST in kinds else pa.string()


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if kind == pa.float64():
        return array.cast(kind, safe=False)
    if kind == _TEXT_LIST:
        texts = array.cast(pa.string()).to_pylist()
        return pa.array([None if text is None else [text] for text in texts], kind)
    return array.cast(kind)
