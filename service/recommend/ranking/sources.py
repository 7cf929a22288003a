"""Where the items of a list may come from: each source gives its best candidates among what may still be returned."""

from collections.abc import Callable

import numpy as np

from model_store.artifacts.bundle import Bundle
from model_store.catalogue.catalogue import Catalogue
from model_store.index.vectors import normalize
from service.engine.served_bundle import ServedBundle
from service.recommend.candidates.admissible import Admissible
from service.recommend.ranking.candidates import Candidates

# The best ``want`` candidates of a source among the admissible ones; fewer only where it has no more.
Source = Callable[[int, Admissible], Candidates]

# Items that "similar to the latest ones" looks at: few, or the mean is like nothing in particular.
NUM_LATEST = 5
# Popular items are looked at in pieces of at least this many, as most often the first few suffice.
_PIECE = 1_024


def fixed(candidates: Candidates) -> Source:
    """Items that are there already, by their log-probabilities; next to the best one's these are in (0, 1], as cosines.

    Args:
        candidates: Best first.
    """
    scaled = Candidates(
        candidates.item_indices, candidates.scores, relevance=np.exp(candidates.scores - candidates.scores[:1])
    )

    def find(want: int, admissible: Admissible) -> Candidates:
        return scaled.take(np.flatnonzero(admissible.keep(scaled.item_indices))[:want])

    return find


def in_order(served: ServedBundle, items: np.ndarray) -> Source:
    """Items in an order that is given, such as that of a segment: no model scored them, so their score is 0.

    Args:
        served: Whose items.
        items: (M,) int64 item indices, each once; their relevance is how popular they are.
    """
    share = served.masks.get("popularity share", lambda: _popularity_share(served.catalogue))

    def find(want: int, admissible: Admissible) -> Candidates:
        found = first_kept(items, want, admissible)
        return Candidates(found, np.zeros(len(found), dtype=np.float32), relevance=share[found - 1])

    return find


def popular(served: ServedBundle) -> Source:
    """All items, the most popular first."""
    return in_order(served, served.catalogue.popular())


def first_kept(items: np.ndarray, want: int, admissible: Admissible) -> np.ndarray:
    """The first ``want`` of these items that may be returned; fewer only where there are no more. All are int64."""
    kept: list[np.ndarray] = []
    start, missing, size = 0, want, max(_PIECE, 2 * want)
    while missing > 0 and start < len(items):
        piece = items[start : start + size]
        kept.append(piece[admissible.keep(piece)][:missing])
        missing -= len(kept[-1])
        start += size
        size *= 2
    return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)


def latest_vector(bundle: Bundle, history: np.ndarray) -> np.ndarray | None:
    """What the latest items have in common.

    Args:
        bundle: Whose items.
        history: (L,) int64 item indices, oldest first.

    Returns:
        (D,) float32, the unit-norm mean of the unit-norm embeddings of the latest items; of the latest one alone where
        they cancel each other out. None for an empty history, or where no embedding has a direction.
    """
    directions = bundle.item_queries(history[-NUM_LATEST:])
    directions = directions[directions.any(axis=1)]
    if not len(directions):
        return None
    mean: np.ndarray = directions.mean(axis=0)
    return normalize(mean) if np.linalg.norm(mean) > np.finfo(np.float32).eps else directions[-1]


def _popularity_share(catalogue: Catalogue) -> np.ndarray:
    """(N,) float32 in [0, 1] on a scale of logarithms: 1 for the most popular item, as a cosine might be."""
    popularity = np.log1p(np.maximum(catalogue.popularity, 0).astype(np.float32))
    share: np.ndarray = popularity / max(float(popularity.max()), np.finfo(np.float32).tiny)
    return share
