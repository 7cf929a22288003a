"""What there is to filter by: the attributes of a catalogue, with their commonest values or their range."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_store.catalogue.catalogue import Catalogue

Kind = Literal["words", "number", "flag", "other"]

# As many as a filter may name. The rest of a wider catalogue can still be filtered by through the API.
MAX_ATTRIBUTES = 32
MAX_VALUES = 100
MAX_VALUE_LENGTH = 120
NUM_BINS = 24


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """One value and how many items have it."""

    value: str | bool
    count: int


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a catalogue.

    Attributes:
        name: As the catalogue has it.
        kind: ``words`` (strings, or lists of them), ``number``, ``flag`` (true or false), or ``other``, which the
            console does not filter by.
        num_missing: Items without a value.
        num_distinct: How many values there are; 0 for numbers and others.
        values: Of words and flags, the commonest ``MAX_VALUES`` that are short enough to be read.
        smallest: Of numbers, the smallest finite one; None if there is none.
        largest: Likewise.
        bins: (NUM_BINS,) of numbers, how many lie in each of as many equal parts of the range.
    """

    name: str
    kind: Kind
    num_missing: int
    num_distinct: int = 0
    values: Sequence[AttributeValue] = ()
    smallest: float | None = None
    largest: float | None = None
    bins: Sequence[int] = ()


def describe_attributes(catalogue: Catalogue) -> list[Attribute]:
    """Looks through the whole catalogue once; a second or two for a million items with as many values.

    Returns:
        At most ``MAX_ATTRIBUTES``, in the catalogue's order.
    """
    return [_describe(name, catalogue.column(name)) for name in catalogue.attribute_names[:MAX_ATTRIBUTES]]


def _describe(name: str, column: pa.ChunkedArray) -> Attribute:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_boolean(kind):
        return Attribute(name, "flag", column.null_count, *_values(column))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Attribute(name, "words", column.null_count, *_values(column))
    if _is_list(kind) and (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)):
        num_missing = len(column) - int(pc.sum(pc.greater(pc.list_value_length(column), 0)).as_py() or 0)
        return Attribute(name, "words", num_missing, *_values(pc.list_flatten(column)))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _describe_numbers(name, column)
    return Attribute(name, "other", column.null_count)


def _values(column: pa.ChunkedArray) -> tuple[int, list[AttributeValue]]:
    """How many values there are, and the commonest; among equally common ones by name."""
    counted = pc.value_counts(column.drop_null())
    readable = pa.table({"value": counted.field("values"), "count": counted.field("counts")})
    if not pa.types.is_boolean(column.type):
        # There may be as many values as items: only the commonest become Python's.
        readable = readable.filter(pc.less_equal(pc.utf8_length(readable.column("value")), MAX_VALUE_LENGTH))
        by_count_and_name = [("count", "descending"), ("value", "ascending")]
        readable = readable.take(pc.select_k_unstable(readable, MAX_VALUES, by_count_and_name))
    values = [AttributeValue(row["value"], row["count"]) for row in readable.to_pylist()]
    return len(counted), sorted(values, key=lambda it: (-it.count, str(it.value)))


def _describe_numbers(name: str, column: pa.ChunkedArray) -> Attribute:
    numbers = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()
    finite = numbers[np.isfinite(numbers)]
    num_missing = int(np.count_nonzero(np.isnan(numbers)))
    if len(finite) == 0:
        return Attribute(name, "number", num_missing)
    smallest, largest = float(finite.min()), float(finite.max())
    return Attribute(name, "number", num_missing, smallest=smallest, largest=largest, bins=_bins(finite))


def _bins(finite: np.ndarray) -> list[int]:
    """(NUM_BINS,) counts; halved first, so that a range of all that a float holds does not overflow."""
    halves = finite / 2
    low, width = halves.min(), max(float(halves.max() - halves.min()), np.finfo(np.float64).tiny)
    places = np.minimum(((halves - low) / width * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    counts: list[int] = np.bincount(places, minlength=NUM_BINS).tolist()
    return counts


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)
