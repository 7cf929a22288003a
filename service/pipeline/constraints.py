"""Which items may be returned: filters over attributes, and exclusions. Every step honours the same set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_store.catalogue import Catalogue
from service.errors import InvalidRequest

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Condition:
    """What one attribute must be; all that is given must hold.

    An item without a value fails ``any_of``, ``gte`` and ``lte`` and passes ``none_of``. For an attribute
    that is a list, ``any_of`` wants one of its members, and ``none_of`` wants none of them.

    Attributes:
        any_of: The values that are allowed.
        none_of: The values that are not.
        gte: The smallest value allowed.
        lte: The largest value allowed.
        exists: Whether there must, or must not, be a value.
    """

    any_of: tuple[Value, ...] | None = None
    none_of: tuple[Value, ...] | None = None
    gte: Value | None = None
    lte: Value | None = None
    exists: bool | None = None


Filter = Mapping[str, Condition]


@dataclass(frozen=True)
class Admissible:
    """The items that may be returned.

    Attributes:
        num_items: N.
        mask: (N,) bool by row (``item_index - 1``), or None where the filter lets everything pass.
        excluded: (E,) int64, unique ``item_index`` that may not be returned whatever the mask says.
    """

    num_items: int
    mask: np.ndarray | None
    excluded: np.ndarray

    def keep(self, item_indices: np.ndarray) -> np.ndarray:
        """Which of ``item_indices`` may be returned: a bool array of their length; 0 may not."""
        is_kept = (item_indices > 0) & ~np.isin(item_indices, self.excluded)
        if self.mask is not None:
            is_kept &= self.mask[np.maximum(item_indices - 1, 0)]
        return is_kept

    def allowed(self) -> np.ndarray:
        """Which rows may be returned: (N,) bool, the caller's own."""
        allowed = np.ones(self.num_items, dtype=bool) if self.mask is None else self.mask.copy()
        allowed[self.excluded - 1] = False
        return allowed

    def indices(self) -> np.ndarray:
        """All that may be returned, ascending, int64."""
        return np.flatnonzero(self.allowed()).astype(np.int64) + 1

    def without(self, item_indices: np.ndarray) -> "Admissible":
        """The same but for these items, int64."""
        return Admissible(self.num_items, self.mask, np.union1d(self.excluded, item_indices))

    def count(self) -> int:
        """How many may be returned."""
        if self.mask is None:
            return self.num_items - len(self.excluded)
        return int(np.count_nonzero(self.mask)) - int(np.count_nonzero(self.mask[self.excluded - 1]))


def exclusions(catalogue: Catalogue, item_ids: Sequence[str]) -> np.ndarray:
    """The item indices of these ids: unique, without unknown ones, int64."""
    indices = np.unique(catalogue.indices_of(item_ids))
    return indices[indices > 0]


def filter_mask(catalogue: Catalogue, conditions: Filter) -> np.ndarray | None:
    """Evaluates a filter on the whole catalogue.

    Returns:
        (N,) bool by row, or None for an empty filter.

    Raises:
        InvalidRequest: An unknown attribute, or a value of another type than the attribute's.
    """
    check_attributes(catalogue, conditions)
    masks = [_condition_mask(name, catalogue.column(name), condition) for name, condition in conditions.items()]
    return reduce(np.logical_and, masks) if masks else None


def check_attributes(
    catalogue: Catalogue, names: Mapping[str, Any] | Sequence[str], *, allowed: Sequence[str] = ()
) -> None:
    """Refuses attributes that the catalogue does not have.

    Raises:
        InvalidRequest: Names the first unknown one and all known ones.
    """
    known = {*catalogue.attribute_names, *allowed}
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"unknown attribute {name!r}; the catalogue has {sorted(known)}", code="unknown_attribute"
            )


def _condition_mask(name: str, column: pa.ChunkedArray, condition: Condition) -> np.ndarray:
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    exists = pc.is_valid(values)
    if pa.types.is_floating(values.type):
        exists = pc.and_(exists, pc.fill_null(pc.invert(pc.is_nan(values)), False))
    masks = [np.ones(len(values), dtype=bool)]
    if condition.exists is not None:
        masks.append(_numpy(exists) == condition.exists)
    if condition.any_of is not None:
        masks.append(_is_in(name, values, condition.any_of))
    if condition.none_of is not None:
        masks.append(~_is_in(name, values, condition.none_of))
    if condition.gte is not None:
        masks.append(_compare(name, values, condition.gte, pc.greater_equal))
    if condition.lte is not None:
        masks.append(_compare(name, values, condition.lte, pc.less_equal))
    return reduce(np.logical_and, masks)


def _is_in(name: str, values: pa.Array, wanted: Sequence[Value]) -> np.ndarray:
    if _is_list(values.type):
        members = pc.list_flatten(values)
        rows = pc.list_parent_indices(values).to_numpy()
        mask = np.zeros(len(values), dtype=bool)
        mask[rows[_is_in(name, members, wanted)]] = True
        return mask
    value_set = pa.array([_typed(name, value, values.type) for value in wanted], type=_comparable(values.type))
    return _numpy(pc.is_in(_one_zero(values.cast(value_set.type)), value_set=_one_zero(value_set)))


def _one_zero(values: pa.Array) -> pa.Array:
    """Arrow looks floats up by their bits, in which 0.0 and -0.0 differ."""
    return pc.add(values, 0.0) if pa.types.is_floating(values.type) else values


def _compare(
    name: str, values: pa.Array, bound: Value, compare: Callable[[pa.Array, pa.Scalar], pa.Array]
) -> np.ndarray:
    if _is_list(values.type) or pa.types.is_boolean(values.type):
        raise InvalidRequest(
            f"attribute {name!r} is {values.type}: gte and lte want a number or a string",
            code="invalid_filter",
        )
    scalar = pa.scalar(_typed(name, bound, values.type), type=_comparable(values.type))
    return _numpy(compare(values.cast(scalar.type), scalar))


def _typed(name: str, value: Value, wanted: pa.DataType) -> Value:
    """The value, if it can be compared with an attribute of this type."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = (
        (pa.types.is_boolean(wanted) and isinstance(value, bool))
        or (_is_number(wanted) and is_number)
        or (_is_string(wanted) and isinstance(value, str))
    )
    if not fits:
        raise InvalidRequest(
            f"attribute {name!r} is {wanted}, which cannot be compared with {value!r}", code="invalid_filter"
        )
    try:
        return float(value) if is_number else value
    except OverflowError as error:
        raise InvalidRequest(f"attribute {name!r}: the number is too large", code="invalid_filter") from error


def _comparable(wanted: pa.DataType) -> pa.DataType:
    # Numbers are compared as float64, so that {"gte": 1.5} works on an integer attribute.
    return pa.float64() if _is_number(wanted) else wanted


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _numpy(mask: pa.Array) -> np.ndarray:
    result: np.ndarray = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    return result
