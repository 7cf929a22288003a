"""How many items of one attribute value a list may have: ``max_per``.

An item counts for each of its values, once; an item without a value counts for nothing.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.engine.served_bundle import ServedBundle
from service.errors import InvalidRequest

MAX_CAPPED = 8


class Caps:
    """Counts what a list has, and says what no longer fits.

    Args:
        served: Whose items.
        max_per: Attribute of the catalogue to how many items of one of its values may be in the list, at least 1.

    Raises:
        InvalidRequest: Values of an attribute cannot be told apart, as they are neither numbers, strings nor booleans.
    """

    def __init__(self, served: ServedBundle, max_per: Mapping[str, int]) -> None:
        self._num_items = len(served.catalogue)
        self._attributes = [_Capped(served, name, limit) for name, limit in max_per.items()]

    @property
    def has_any(self) -> bool:
        """Whether anything is counted."""
        return bool(self._attributes)

    def admits(self, item_index: int) -> bool:
        """Whether one more such item fits."""
        return all(one.admits(item_index) for one in self._attributes)

    def take(self, item_index: int) -> None:
        """Counts an item."""
        for one in self._attributes:
            one.take(item_index)

    def open_rows(self) -> np.ndarray | None:
        """(N,) bool by row, which items still fit; None if all of them do."""
        masks = [mask for one in self._attributes if (mask := one.open_rows(self._num_items)) is not None]
        return np.logical_and.reduce(masks) if masks else None


class _Capped:
    """One attribute: the values of row r are ``codes[starts[r]:starts[r + 1]]``."""

    def __init__(self, served: ServedBundle, name: str, limit: int) -> None:
        self._limit = limit
        packed = served.masks.get(("value codes", name), lambda: _value_codes(served, name))
        num_starts = len(served.catalogue) + 1
        self._starts, self._codes = packed[:num_starts], packed[num_starts:]
        self._counts: dict[int, int] = {}
        self._is_full = np.zeros(int(self._codes.max(initial=-1)) + 1, dtype=bool)

    def admits(self, item_index: int) -> bool:
        return not self._is_full[self._of(item_index)].any()

    def take(self, item_index: int) -> None:
        for code in self._of(item_index).tolist():
            self._counts[code] = self._counts.get(code, 0) + 1
            self._is_full[code] = self._counts[code] >= self._limit

    def open_rows(self, num_items: int) -> np.ndarray | None:
        if not self._is_full.any():
            return None
        is_open = np.ones(num_items, dtype=bool)
        full_places = np.flatnonzero(self._is_full[self._codes])
        is_open[np.searchsorted(self._starts, full_places, side="right") - 1] = False
        return is_open

    def _of(self, item_index: int) -> np.ndarray:
        codes: np.ndarray = self._codes[self._starts[item_index - 1] : self._starts[item_index]]
        return codes


def check_capped(served: ServedBundle, name: str, *, place: str = "/max_per") -> None:
    """Refuses an attribute whose values cannot be told apart.

    Args:
        served: Whose catalogue, which has the attribute.
        name: Of the attribute.
        place: Where it was sent, for errors.

    Raises:
        InvalidRequest: Names it and its type.
    """
    kind = served.catalogue.table.schema.field(name).type
    element = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    element = element.value_type if pa.types.is_dictionary(element) else element
    is_plain = (
        pa.types.is_string(element)
        or pa.types.is_large_string(element)
        or pa.types.is_integer(element)
        or pa.types.is_floating(element)
        or pa.types.is_boolean(element)
        or pa.types.is_null(element)
    )
    if not is_plain:
        raise InvalidRequest(f"{place}: attribute {name!r} is {kind}, whose values are not counted", code="invalid_cap")


def _value_codes(served: ServedBundle, name: str) -> np.ndarray:
    """(N + 1 + M,) int32: N + 1 starts, then M codes; equal values have equal codes, and an item has each once."""
    check_capped(served, name)
    values = served.catalogue.column(name).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        rows = pc.list_parent_indices(values).to_numpy(zero_copy_only=False).astype(np.int64)
        values = pc.list_flatten(values)
        values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    else:
        rows = np.arange(len(values), dtype=np.int64)
    is_there = pc.is_valid(values)
    if pa.types.is_floating(values.type):
        # Arrow tells floats apart by their bits, in which 0.0 and -0.0 differ
        values = pc.add(values, pa.scalar(0.0, values.type))
        is_there = pc.and_(is_there, pc.fill_null(pc.invert(pc.is_nan(values)), False))
    encoded = values.filter(is_there).dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    rows = rows[is_there.to_numpy(zero_copy_only=False)]
    num_codes = int(encoded.max(initial=0)) + 1
    rows, codes = np.divmod(np.unique(rows * num_codes + encoded), num_codes)
    starts = np.searchsorted(rows, np.arange(len(served.catalogue) + 1))
    return np.concatenate([starts, codes]).astype(np.int32)
