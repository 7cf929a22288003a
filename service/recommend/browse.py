"""Looking at the catalogue: one item, and those like it."""

import numpy as np

from service.engine.served_bundle import ServedBundle
from service.errors import NotFound
from service.people.hidden_set import HiddenItems
from service.recommend.ask import Query
from service.recommend.candidates.admissible import Admissible, admissible_items
from service.recommend.known import Known
from service.recommend.ranking.candidates import Candidates
from service.recommend.ranking.retrieve import retrieve

# A query that forbids nothing.
_EVERYTHING = Query(user_id=None, k=1, timeout_seconds=1.0, exclude_seen=False)


def item_index_of(served: ServedBundle, item_id: str, hidden: HiddenItems) -> int:
    """The item's index, 1..N.

    Raises:
        NotFound: It is not in the catalogue, or hidden.
    """
    if item_id in hidden.item_ids:
        raise NotFound(f"the item {item_id!r} is hidden", code="hidden_item")
    item_index = served.catalogue.index_of(item_id)
    if item_index == 0:
        raise NotFound(f"no item {item_id!r} in bundle {served.bundle_id}", code="unknown_item")
    return item_index


def similar_items(served: ServedBundle, item_index: int, k: int, hidden: HiddenItems) -> Candidates:
    """The k items whose embeddings are nearest to an item's, itself and hidden ones left out; scores are cosines."""
    admissible = shown_items(served, hidden).without(np.array([item_index], dtype=np.int64))
    query = served.bundle.item_queries(np.array([item_index]))[0]
    found, _ = retrieve(served.bundle, query, k, admissible)
    return found


def shown_items(served: ServedBundle, hidden: HiddenItems) -> Admissible:
    """All items but the hidden ones."""
    return admissible_items(served, _EVERYTHING, Known(hidden=hidden))
