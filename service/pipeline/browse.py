"""Looking at the catalogue: by title, and by likeness."""

import numpy as np
import pyarrow.compute as pc

from service.engine.served_bundle import ServedBundle
from service.errors import NotFound
from service.pipeline.constraints import Admissible
from service.pipeline.retrieval import Candidates, retrieve


def item_index_of(served: ServedBundle, item_id: str) -> int:
    """The item's index, 1..N.

    Raises:
        NotFound: It is not in the catalogue.
    """
    item_index = served.catalogue.index_of(item_id)
    if item_index == 0:
        raise NotFound(f"no item {item_id!r} in bundle {served.bundle_id}", code="unknown_item")
    return item_index


def similar_items(served: ServedBundle, item_index: int, k: int) -> Candidates:
    """The k items whose embeddings are nearest to an item's, itself left out; scores are cosines."""
    admissible = Admissible(len(served.catalogue), None, np.array([item_index], dtype=np.int64))
    query = served.bundle.item_embeddings(np.array([item_index]))[0]
    return retrieve(served.bundle, query, k, admissible)


def find_by_title(served: ServedBundle, query: str, limit: int) -> np.ndarray:
    """Items whose title has every word of the query in it, whatever the case; the most popular first.

    Args:
        served: Whose catalogue.
        query: Words; an empty query finds everything.
        limit: How many.

    Returns:
        (at most limit,) int64 item indices.
    """
    catalogue = served.catalogue
    titles = catalogue.column("title")
    matches = np.ones(len(catalogue), dtype=bool)
    for word in query.split():
        found = pc.fill_null(pc.match_substring(titles, word, ignore_case=True), False)
        matches &= found.to_numpy()
    popular = catalogue.popular()
    return popular[matches[popular - 1]][:limit]
