"""Looking at the catalogue: by title, and by likeness."""

import numpy as np
import pyarrow.compute as pc

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
    admissible = _shown(served, hidden).without(np.array([item_index], dtype=np.int64))
    query = served.bundle.item_embeddings(np.array([item_index]))[0]
    found, _ = retrieve(served.bundle, query, k, admissible)
    return found


def find_by_title(served: ServedBundle, query: str, limit: int, hidden: HiddenItems) -> np.ndarray:
    """Items whose title has every word of the query in it, whatever the case; the most popular first.

    Args:
        served: Whose catalogue.
        query: Words; an empty query finds everything.
        limit: How many.
        hidden: What is not found.

    Returns:
        (at most limit,) int64 item indices.
    """
    catalogue = served.catalogue
    titles = catalogue.column("title")
    matches = _shown(served, hidden).allowed()
    for word in query.split():
        found = pc.fill_null(pc.match_substring(titles, word, ignore_case=True), False)
        matches &= found.to_numpy()
    popular = catalogue.popular()
    return popular[matches[popular - 1]][:limit]


def _shown(served: ServedBundle, hidden: HiddenItems) -> Admissible:
    return admissible_items(served, _EVERYTHING, Known(hidden=hidden))
