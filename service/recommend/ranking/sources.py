"""Where the items of a list may come from: each source gives its best candidates among what may still be returned."""

from collections.abc import Callable

import numpy as np

from model_store.catalogue.catalogue import Catalogue
from service.engine.served_bundle import ServedBundle
from service.recommend.candidates.admissible import Admissible
from service.recommend.ranking.fallback import popular_items
from service.recommend.ranking.lister import Draw, Drawn
from service.recommend.ranking.retrieve import Candidates


def fixed(candidates: Candidates) -> Draw:
    """Items that are there already, by their log-probabilities; next to the best one's these are in (0, 1], as cosines.

    Args:
        candidates: Best first.
    """
    relevance = np.exp(candidates.scores - candidates.scores[:1])

    def draw(want: int, admissible: Admissible) -> Drawn:
        is_kept = admissible.keep(candidates.item_indices)
        return Drawn(
            candidates.item_indices[is_kept][:want], candidates.scores[is_kept][:want], relevance[is_kept][:want]
        )

    return draw


def in_order(served: ServedBundle, items: np.ndarray) -> Draw:
    """Items in an order that is given, such as that of a segment.

    Args:
        served: Whose items.
        items: (M,) int64 item indices, each once.
    """
    return _unscored(served, lambda want, admissible: items[admissible.keep(items)][:want])


def popular(served: ServedBundle) -> Draw:
    """All items, the most popular first."""
    return _unscored(served, lambda want, admissible: popular_items(served.catalogue, want, admissible))


def _unscored(served: ServedBundle, find: Callable[[int, Admissible], np.ndarray]) -> Draw:
    """Items that no model scored: their score is 0, and their relevance how popular they are."""
    share = served.masks.get("popularity share", lambda: _popularity_share(served.catalogue))

    def draw(want: int, admissible: Admissible) -> Drawn:
        found = find(want, admissible)
        return Drawn(found, np.zeros(len(found), dtype=np.float32), share[found - 1])

    return draw


def _popularity_share(catalogue: Catalogue) -> np.ndarray:
    """(N,) float32 in [0, 1] on a scale of logarithms: 1 for the most popular item, as a cosine might be."""
    popularity = np.log1p(np.maximum(catalogue.popularity, 0).astype(np.float32))
    share: np.ndarray = popularity / max(float(popularity.max()), np.finfo(np.float32).tiny)
    return share
