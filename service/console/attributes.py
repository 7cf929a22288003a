"""What there is to filter by: the attributes of a catalogue, with their commonest values or their range."""

import math
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
# Where the largest number is so many times the median, parts of equal ratio show more than parts of equal width.
_SKEWED = 6.0
# Beyond, not every whole number is a float.
_LARGEST_WHOLE = 2.0**52


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
        bins: Of numbers, how many lie in each part of the range; at most ``NUM_BINS``.
        edges: Where the parts begin, and where the last one ends: one more than ``bins``.
    """

    name: str
    kind: Kind
    num_missing: int
    num_distinct: int = 0
    values: Sequence[AttributeValue] = ()
    smallest: float | None = None
    largest: float | None = None
    bins: Sequence[int] = ()
    edges: Sequence[float] = ()


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
    edges = bin_edges(finite, are_whole=pa.types.is_integer(column.type))
    bins: list[int] = np.histogram(finite, edges)[0].tolist()
    smallest, largest = float(finite.min()), float(finite.max())
    return Attribute(name, "number", num_missing, smallest=smallest, largest=largest, bins=bins, edges=edges.tolist())


def bin_edges(finite: np.ndarray, *, are_whole: bool) -> np.ndarray:
    """(bins + 1,) ascending; at most ``NUM_BINS`` bins.

    Whole numbers of a narrow range, such as years, get bins of whole numbers, each of as many; numbers of which a few
    are far larger than the rest, such as prices, get bins of equal ratio (and one for 0); all others bins of equal
    width. The last bin takes in the largest number.

    Args:
        finite: (M,) float64, at least one.
        are_whole: Whether they are integers.
    """
    smallest, largest = finite.min(), finite.max()
    positive = finite[finite > 0]
    if smallest >= 0 and len(positive) and largest > _SKEWED * np.median(positive):
        edges = np.geomspace(positive.min(), largest, NUM_BINS + (smallest > 0))
        return _ascending(edges if smallest > 0 else np.concatenate([[0.0], edges]), smallest, largest)
    if are_whole and largest - smallest < _LARGEST_WHOLE:
        step = math.ceil((largest - smallest + 1) / NUM_BINS)
        return np.arange(smallest, largest + step + 1, step)
    # halved, so that a range of all that a float holds does not overflow
    return _ascending(np.linspace(smallest / 2, largest / 2, NUM_BINS + 1) * 2, smallest, largest)


def _ascending(edges: np.ndarray, smallest: float, largest: float) -> np.ndarray:
    """The edges without equal neighbours, exactly from the smallest to the largest number."""
    edges[0], edges[-1] = smallest, largest
    edges = np.unique(edges)
    return edges if len(edges) > 1 else np.array([smallest, np.nextafter(smallest, np.inf)])


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)
