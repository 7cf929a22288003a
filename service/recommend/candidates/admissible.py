"""What may be returned: the one place where filters, exclusions, seen and hidden items come together.

Every step of every path asks the same ``Admissible``, and each list is checked against it last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model_store.catalogue.catalogue import Catalogue
from service.engine.served_bundle import ServedBundle
from service.errors import InvalidRequest
from service.people.hidden_set import NOTHING_HIDDEN, HiddenItems
from service.people.interactions import NO_TIME
from service.recommend.ask import DEFAULT_FIELDS, Query
from service.recommend.candidates.caps import check_capped
from service.recommend.candidates.filters import Node, evaluate, leaves, unpack
from service.recommend.known import Known

# More hidden items than this are taken out of the mask: a list of exclusions is looked through at every step.
_MANY_HIDDEN = 1_000
_NO_ITEMS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Admissible:
    """The items that may be returned.

    Attributes:
        num_items: N.
        mask: (N,) bool by row (``item_index - 1``), or None where the filter lets everything pass.
        excluded: (E,) int64, unique and ascending ``item_index`` that may not be returned whatever the mask says.
        removed: How many items each reason takes away, by itself: ``filter``, ``hidden``, ``excluded``, ``seen``.
    """

    num_items: int
    mask: np.ndarray | None
    excluded: np.ndarray
    removed: Mapping[str, int] = field(default_factory=dict)

    def keep(self, item_indices: np.ndarray) -> np.ndarray:
        """Which of ``item_indices`` may be returned: a bool array of their length; 0 may not."""
        is_kept: np.ndarray = item_indices > 0
        if len(self.excluded):
            # np.isin sorts both again, which takes as long as a search
            places = np.minimum(np.searchsorted(self.excluded, item_indices), len(self.excluded) - 1)
            is_kept &= self.excluded[places] != item_indices
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

    def within(self, mask: np.ndarray) -> "Admissible":
        """The same, but only the rows of ``mask``, (N,) bool."""
        return Admissible(self.num_items, mask if self.mask is None else self.mask & mask, self.excluded)

    def count(self) -> int:
        """How many may be returned."""
        if self.mask is None:
            return self.num_items - len(self.excluded)
        return int(np.count_nonzero(self.mask)) - int(np.count_nonzero(self.mask[self.excluded - 1]))


class NothingHidden:
    """A HiddenReader where nobody hides anything."""

    async def current(self, *, within: float) -> HiddenItems:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return NOTHING_HIDDEN


def admissible_items(served: ServedBundle, query: Query, known: Known) -> Admissible:
    """Decides what may be returned for a query. With a new filter it may take long: not in the event loop then.

    Args:
        served: Whose catalogue.
        query: What was asked.
        known: What has been seen, and what operators have hidden.

    Raises:
        InvalidRequest: A filter of the wrong type for its attribute.
    """
    catalogue, hidden = served.catalogue, known.hidden
    mask = None
    removed: dict[str, int] = {}
    if query.filter is not None:
        mask = unpack(evaluate(query.filter, catalogue, served.masks), len(catalogue))
        removed["filter"] = len(mask) - int(np.count_nonzero(mask))
    brought = None
    if query.candidate_item_ids is not None:
        brought = exclusions(catalogue, query.candidate_item_ids)
        if mask is not None:
            removed["filter"] = len(brought) - int(np.count_nonzero(mask[brought - 1]))
        only = np.zeros(len(catalogue), dtype=bool)
        only[brought - 1] = True
        mask = only if mask is None else mask & only
    # Sets of Python: the lists are short, and sorting them as arrays takes longer than a search.
    named = {index for item_id in query.exclude_item_ids if (index := catalogue.index_of(item_id))}
    seen = set(seen_items(catalogue, query, known).tolist())
    if brought is not None:
        seen.intersection_update(brought.tolist())
    removed["excluded"], removed["seen"] = len(named), len(seen)
    excluded = np.array(sorted(named | seen), dtype=np.int64)
    if hidden.item_ids:
        found = served.masks.get(("hidden", hidden.serial), lambda: exclusions(catalogue, list(hidden.item_ids)))
        removed["hidden"] = len(found)
        if len(found) <= _MANY_HIDDEN:
            excluded = np.union1d(excluded, found)
        else:
            mask = np.ones(len(catalogue), dtype=bool) if mask is None else mask
            mask[found - 1] = False
    return Admissible(len(catalogue), mask, excluded, removed)


def seen_items(catalogue: Catalogue, query: Query, known: Known) -> np.ndarray:
    """(any,) int64, item indices that count as seen: all of the history, or those of some types, or not too old ones.

    An interaction whose type or time nobody said is taken for one that counts.
    """
    if not query.exclude_seen:
        return _NO_ITEMS
    types, max_age = frozenset(query.seen_types), query.seen_max_age_seconds
    if not types and max_age is None:
        return known.history.item_indices
    past = known.past.interactions
    counts = np.ones(len(past), dtype=bool)
    if max_age is not None:
        counts &= (past.timestamps >= query.asked_at - max_age) | (past.timestamps == NO_TIME)
    if types:
        counts &= np.fromiter((kind is None or kind in types for kind in past.types), bool, len(past))
    return exclusions(catalogue, [past.item_ids[at] for at in np.flatnonzero(counts).tolist()])


def exclusions(catalogue: Catalogue, item_ids: Sequence[str]) -> np.ndarray:
    """The item indices of these ids: unique, without unknown ones, int64."""
    indices = np.unique(catalogue.indices_of(item_ids))
    return indices[indices > 0]


def check_query(served: ServedBundle, query: Query) -> None:
    """Refuses a query that names attributes which the catalogue does not have.

    Raises:
        InvalidRequest: Names the first unknown one, where it stands, and all known ones.
    """
    catalogue = served.catalogue
    check_attributes(catalogue, query.return_fields or (), allowed=DEFAULT_FIELDS)
    for name in query.max_per:
        check_attributes(catalogue, [name], place="/max_per")
        check_capped(served, name)
    for node in (query.filter, *(boost.filter for boost in query.boosts)):
        if node is not None:
            check_filter(catalogue, node)


def check_filter(catalogue: Catalogue, node: Node) -> None:
    """Refuses a filter over attributes that the catalogue does not have.

    Raises:
        InvalidRequest: Names the first unknown one, its place, and all known ones.
    """
    for leaf in leaves(node):
        check_attributes(catalogue, [leaf.attribute], place=leaf.path)


def check_attributes(
    catalogue: Catalogue, names: Mapping[str, Any] | Sequence[str], *, allowed: Sequence[str] = (), place: str = ""
) -> None:
    """Refuses attributes that the catalogue does not have.

    Raises:
        InvalidRequest: Names the first unknown one and all known ones.
    """
    known = {*catalogue.attribute_names, *allowed}
    for name in names:
        if name not in known:
            where = f"{place}: " if place else ""
            raise InvalidRequest(
                f"{where}unknown attribute {name!r}; the catalogue has {sorted(known)}", code="unknown_attribute"
            )
