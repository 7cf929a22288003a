"""Segments of a catalogue: the values of one attribute, and the items of each, the most popular first.

Which attribute divides a catalogue into segments is what a request or the settings say, else one that looks like a
category: few values, each with many items, and most items have one. Each is worked out once per bundle.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cachetools import LRUCache

from model_store.catalogue.catalogue import Catalogue
from service.errors import InvalidRequest
from service.recommend.ask import SegmentWish

LOGGER = logging.getLogger(__name__)

Value = str | int | bool

# An attribute of more values says what an item is, not which of a kind.
_MAX_VALUES = 10_000
# Of a list: more than this many values per item, on average, and the segments would take more than the items.
_MAX_VALUES_PER_ITEM = 8
# Attributes worked out per catalogue, beyond which the one longest unused is dropped.
_MAX_ATTRIBUTES = 4
# Who names a column so means it.
_NAMES = ("category", "categories", "genre", "genres", "department", "departments", "topic", "topics")
_MAX_CATEGORIES = 1_000
_MIN_COVERAGE = 0.5
_MIN_ITEMS_PER_VALUE = 2
# Beyond as many values as this, all equally frequent, more of them are not better.
_ENOUGH_VALUES = 20
# A user's segment is looked for among this many of the latest items.
_LATEST = 20


@dataclass(frozen=True)
class SegmentItems:
    """The items of each value of one attribute.

    Attributes:
        attribute: Which one.
        places: Value to its place v in ``starts``.
        starts: (V + 1,) int64: the items of v are ``items[starts[v]:starts[v + 1]]``.
        items: (M,) int32 item indices, per value the most popular first.
    """

    attribute: str
    places: Mapping[Value, int]
    starts: np.ndarray
    items: np.ndarray

    def items_of(self, value: Value) -> np.ndarray | None:
        """(M_v,) int64, the items of a value, the most popular first; None if no item has it."""
        place = self.places.get(value)
        # True equals 1 as a key, and must not be it.
        if place is None or isinstance(value, bool) is not isinstance(next(iter(self.places)), bool):
            return None
        return self.items[self.starts[place] : self.starts[place + 1]].astype(np.int64)


class Segments:
    """The segments of the catalogues that are live; safe to use from several threads.

    Args:
        attribute: Of every catalogue that has it; None: one that looks like a category.
    """

    def __init__(self, attribute: str | None = None) -> None:
        self._attribute = attribute
        # Weak: a bundle that is swapped out must be freed, segments and all.
        self._built: WeakKeyDictionary[Catalogue, LRUCache[str | None, SegmentItems | None]] = WeakKeyDictionary()
        self._lock = Lock()

    def is_built(self, catalogue: Catalogue, wish: SegmentWish) -> bool:
        """Whether ``order`` is quick."""
        with self._lock:
            return wish.attribute in self._built.get(catalogue, ())

    def build(self, catalogue: Catalogue, wish: SegmentWish) -> SegmentItems | None:
        """The segments that are wished for; the first time this may take a second per million items."""
        key = wish.attribute
        with self._lock:
            built = self._built.setdefault(catalogue, LRUCache(_MAX_ATTRIBUTES))
            if key in built:
                return built[key]
        attribute = self._attribute_of(catalogue) if key is None else key
        segments = None if attribute is None else _segment_items(catalogue, attribute)
        with self._lock:
            built[key] = segments
        return segments

    def order(self, catalogue: Catalogue, wish: SegmentWish, history: np.ndarray) -> np.ndarray | None:
        """The items of the segment, the most popular first.

        Args:
            catalogue: Of the bundle that answers.
            wish: What the request says of it.
            history: (L,) int64 item indices, oldest first.

        Returns:
            (M,) int64 item indices, or None where there is no segment.
        """
        segments = self.build(catalogue, wish)
        if segments is None or not segments.places:
            return None
        value = wish.value
        if value is None:
            value = most_frequent(catalogue, segments.attribute, history)
        return None if value is None else segments.items_of(value)

    def _attribute_of(self, catalogue: Catalogue) -> str | None:
        attribute = self._attribute
        if attribute is None:
            return category_like(catalogue)
        if attribute not in catalogue.attribute_names or not is_segment_type(catalogue, attribute):
            LOGGER.warning("the catalogue has no attribute %r that can be a segment", attribute)
            return None
        return attribute


def check_segment(catalogue: Catalogue, wish: SegmentWish) -> None:
    """Refuses an attribute that cannot be a segment.

    Raises:
        InvalidRequest: The catalogue does not have it, or its values are not such that items share them.
    """
    name = wish.attribute
    if name is None:
        return
    if name not in catalogue.attribute_names:
        raise InvalidRequest(
            f"unknown attribute {name!r}; the catalogue has {sorted(catalogue.attribute_names)}",
            code="unknown_attribute",
        )
    if not is_segment_type(catalogue, name):
        raise InvalidRequest(
            f"attribute {name!r} is {catalogue.column(name).type}; a segment is text, a whole number, true or false, "
            "or a list of these",
            code="invalid_segment",
        )


def is_segment_type(catalogue: Catalogue, attribute: str) -> bool:
    """Whether items can share values of this attribute."""
    kind = _plain_type(catalogue.column(attribute).type)
    return _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def most_frequent(catalogue: Catalogue, attribute: str, history: np.ndarray) -> Value | None:
    """The value that most of the latest items have; of equally frequent ones the one met last."""
    column = catalogue.column(attribute)
    counts: Counter[Value] = Counter()
    # the latest first: of equals, Counter.most_common gives the one that was counted first
    for item_index in history[: -_LATEST - 1 : -1]:
        value = column[int(item_index) - 1].as_py()
        values = dict.fromkeys(value) if isinstance(value, list) else [value]
        counts.update([one for one in values if one is not None])
    return counts.most_common(1)[0][0] if counts else None


def category_like(catalogue: Catalogue) -> str | None:
    """The text attribute that divides the catalogue best: evenly, into few parts, with few items left over."""
    candidates = [name for name in catalogue.attribute_names if _is_text(_plain_type(catalogue.column(name).type))]
    named = [name for name in _NAMES if name in candidates]
    best, best_score = None, (0.0, 0)
    for name in [*named, *(other for other in candidates if other not in named)]:
        values, rows = _values(catalogue, name)
        counts = pc.value_counts(values).field("counts").to_numpy()
        coverage = len(np.unique(rows)) / len(catalogue)
        if not 2 <= len(counts) <= _MAX_CATEGORIES or coverage < _MIN_COVERAGE:
            continue
        if counts.mean() < _MIN_ITEMS_PER_VALUE:
            continue
        if name in named:
            return name
        shares = counts / counts.sum()
        evenness = min(float(-(shares * np.log(shares)).sum()), math.log(_ENOUGH_VALUES))
        score = (round(coverage * evenness, 2), -len(counts))
        if best is None or score > best_score:
            best, best_score = name, score
    return best


def _segment_items(catalogue: Catalogue, attribute: str) -> SegmentItems | None:
    values, rows = _values(catalogue, attribute)
    if len(values) > _MAX_VALUES_PER_ITEM * len(catalogue):
        LOGGER.warning("attribute %r has %d values: too many for segments", attribute, len(values))
        return None
    encoded = pc.dictionary_encode(values)
    if len(encoded.dictionary) > _MAX_VALUES:
        LOGGER.warning("attribute %r has %d different values: too many", attribute, len(encoded.dictionary))
        return None
    places: Sequence[Value] = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy()
    rank = np.empty(len(catalogue), dtype=np.int64)
    rank[catalogue.popular() - 1] = np.arange(len(catalogue))
    # an item with the same value twice in its list is one item of the segment
    members = np.unique(codes.astype(np.int64) * len(catalogue) + rank[rows])
    by_value, ranks = np.divmod(members, len(catalogue))
    starts = np.searchsorted(by_value, np.arange(len(places) + 1))
    items = catalogue.popular()[ranks].astype(np.int32)
    return SegmentItems(attribute, {value: place for place, value in enumerate(places)}, starts, items)


def _values(catalogue: Catalogue, attribute: str) -> tuple[pa.Array, np.ndarray]:
    """(M,) values without nulls, those of lists one by one; (M,) int64 the row of each."""
    values = catalogue.column(attribute).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    rows = np.arange(len(values))
    if _is_list(values.type):
        rows = pc.list_parent_indices(values).to_numpy()
        values = pc.list_flatten(values)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    is_valid = values.is_valid().to_numpy(zero_copy_only=False)
    return values.drop_null(), rows[is_valid].astype(np.int64)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    kind = kind.value_type if _is_list(kind) else kind
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
