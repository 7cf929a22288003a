"""Tests of one attribute over the whole catalogue: which items have such a value.

Numbers are compared exactly, as Python compares them: 2**53 + 1 is no float, and no integer is 1.5. Of an attribute
that is a list, an item passes if one of its elements does.
"""

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_store.catalogue.catalogue import Catalogue
from service.errors import InvalidRequest

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a value; None bounds nothing.

    Attributes:
        gte: At least this.
        lte: At most this.
        gt: More than this.
        lt: Less than this.
    """

    gte: Value | None = None
    lte: Value | None = None
    gt: Value | None = None
    lt: Value | None = None

    def given(self) -> Iterator[tuple[str, Value]]:
        """Name and value of those that bound something."""
        for name in ("gte", "lte", "gt", "lt"):
            value = getattr(self, name)
            if value is not None:
                yield name, value


_NO_BOUNDS = Bounds()


def has_value(catalogue: Catalogue, name: str) -> np.ndarray:
    """(N,) bool by row: neither null nor NaN; a list with at least one such element."""
    return _by_item(_values(catalogue, name), _is_there)


def matches(
    catalogue: Catalogue,
    name: str,
    *,
    any_of: Sequence[Value] | None = None,
    bounds: Bounds = _NO_BOUNDS,
    path: str = "",
) -> np.ndarray:
    """Which items have a value (of a list, one element) for which all of this holds.

    Args:
        catalogue: Whose items.
        name: One of its attributes.
        any_of: It is one of these.
        bounds: It is within these.
        path: Where the filter was sent, for errors.

    Returns:
        (N,) bool by row.

    Raises:
        InvalidRequest: A value cannot be compared with the attribute; the message has its path.
    """
    values = _values(catalogue, name)
    kind = _element_type(values.type)
    tests: list[Callable[[pa.Array], np.ndarray]] = [_is_there]
    if any_of is not None:
        for at, value in enumerate(any_of):
            _check(name, kind, value, f"{path}/any_of/{at}")
        tests.append(lambda elements: _is_in(elements, any_of))
    for key, bound in bounds.given():
        _check(name, kind, bound, f"{path}/{key}", is_bound=True)
        tests.append(_comparison(kind, bound, is_lower=key.startswith("g"), is_strict=not key.endswith("e")))
    return _by_item(values, lambda elements: np.logical_and.reduce([test(elements) for test in tests]))


def _values(catalogue: Catalogue, name: str) -> pa.Array:
    values = catalogue.column(name).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _by_item(values: pa.Array, test: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
    """Applies a test of elements to each item."""
    if not _is_list(values.type):
        return test(values)
    elements = pc.list_flatten(values)
    if pa.types.is_dictionary(elements.type):
        elements = elements.dictionary_decode()
    rows = pc.list_parent_indices(values).to_numpy(zero_copy_only=False)
    passes = np.zeros(len(values), dtype=bool)
    passes[rows[test(elements)]] = True
    return passes


def _is_there(values: pa.Array) -> np.ndarray:
    is_valid = pc.is_valid(values)
    if pa.types.is_floating(values.type):
        is_valid = pc.and_(is_valid, pc.invert(pc.is_nan(values)))
    return _numpy(is_valid)


def _is_in(values: pa.Array, wanted: Sequence[Value]) -> np.ndarray:
    kind = values.type
    if _is_number(kind):
        # Arrow looks floats up by their bits, in which 0.0 and -0.0 differ
        values = pc.add(values, pa.scalar(0.0, kind)) if pa.types.is_floating(kind) else values
        wanted = [exact for value in wanted if (exact := _exactly(kind, value)) is not None]
    return _numpy(pc.is_in(values, value_set=pa.array(wanted, type=kind)))


def _comparison(
    kind: pa.DataType, bound: Value, *, is_lower: bool, is_strict: bool
) -> Callable[[pa.Array], np.ndarray]:
    limit = _limit(kind, bound, is_lower=is_lower) if _is_number(kind) else bound
    if isinstance(limit, bool):  # beyond all that the attribute's type can be
        return lambda values: np.full(len(values), limit)
    if is_strict and limit == bound:  # else the limit lies beyond the bound already
        compare = pc.greater if is_lower else pc.less
    else:
        compare = pc.greater_equal if is_lower else pc.less_equal
    scalar = pa.scalar(limit, type=kind)
    return lambda values: _numpy(compare(values, scalar))


def _exactly(kind: pa.DataType, value: Any) -> int | float | None:
    """The value in the attribute's type, or None where no value of that type equals it."""
    if pa.types.is_floating(kind):
        as_float = float(value)
        with np.errstate(over="ignore"):
            is_same = as_float == value and (kind != pa.float32() or float(np.float32(as_float)) == as_float)
        return as_float + 0.0 if is_same else None
    lowest, highest = _integer_range(kind)
    return int(value) if value == int(value) and lowest <= value <= highest else None


def _limit(kind: pa.DataType, bound: Any, *, is_lower: bool) -> int | float | bool:
    """The bound in the attribute's type, moved inwards where it is not one; or whether all values pass."""
    if pa.types.is_floating(kind):
        as_type = np.float32 if kind == pa.float32() else np.float64
        with np.errstate(over="ignore"):
            limit = as_type(bound)
        if (float(limit) < bound) if is_lower else (float(limit) > bound):
            limit = np.nextafter(limit, as_type(np.inf if is_lower else -np.inf))
        return float(limit)
    whole = math.ceil(bound) if is_lower else math.floor(bound)
    lowest, highest = _integer_range(kind)
    if lowest <= whole <= highest:
        return whole
    return whole < lowest if is_lower else whole > highest


def _integer_range(kind: pa.DataType) -> tuple[int, int]:
    info = np.iinfo(kind.to_pandas_dtype())
    return int(info.min), int(info.max)


def _check(name: str, kind: pa.DataType, value: Value, path: str, *, is_bound: bool = False) -> None:
    """Refuses a value that cannot be compared with an attribute of this type."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = (
        (pa.types.is_boolean(kind) and isinstance(value, bool) and not is_bound)
        or (_is_number(kind) and is_number)
        or (_is_string(kind) and isinstance(value, str))
    )
    if not fits:
        raise InvalidRequest(
            f"{path}: attribute {name!r} is {kind}, which cannot be compared with {reprlib.repr(value)}",
            code="invalid_filter",
        )


def _element_type(kind: pa.DataType) -> pa.DataType:
    kind = kind.value_type if _is_list(kind) else kind
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _numpy(mask: pa.Array) -> np.ndarray:
    result: np.ndarray = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    return result
