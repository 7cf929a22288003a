"""The k nearest admissible items: over-fetch from the index, and an exact scan where that falls short."""

from dataclasses import dataclass

import numpy as np

from model_store.bundle import Bundle
from service.pipeline.constraints import Admissible

# Fewer admissible items than this are compared one by one: it is exact, and faster than a filtered search.
_FEW_ITEMS = 20_000
# More exclusions than this are handed to the index, not fetched and thrown away.
_MANY_EXCLUSIONS = 1_000
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Candidates:
    """Retrieved items, best first.

    Attributes:
        item_indices: (C,) int64, all admissible.
        scores: (C,) float32, cosine with the query.
        warning: What had to be done beyond a plain search, if anything.
    """

    item_indices: np.ndarray
    scores: np.ndarray
    warning: str | None = None


def retrieve(bundle: Bundle, query: np.ndarray, want: int, admissible: Admissible) -> Candidates:
    """Finds the admissible items nearest to a query.

    Args:
        bundle: Whose items.
        query: (D,) float32, any norm but 0.
        want: How many.
        admissible: Which items may be returned.

    Returns:
        ``min(want, admissible.count())`` candidates.
    """
    expected = min(want, admissible.count())
    if expected <= 0:
        return Candidates(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    if admissible.mask is None and len(admissible.excluded) <= _MANY_EXCLUSIONS:
        found = _over_fetch(bundle, query, expected, admissible)
    else:
        allowed = admissible.indices()
        if len(allowed) <= _FEW_ITEMS:
            return exact_scan(bundle, query, expected, allowed)
        scores, item_indices = bundle.index.search(query[None], expected, allowed=allowed)
        found = _kept(item_indices[0], scores[0], admissible, expected)
    if len(found.item_indices) == expected:
        return found
    scanned = exact_scan(bundle, query, expected, admissible.indices())
    warning = f"exact_scan: the index found {len(found.item_indices)} of {expected}; all items were compared"
    return Candidates(scanned.item_indices, scanned.scores, warning)


def exact_scan(bundle: Bundle, query: np.ndarray, want: int, allowed: np.ndarray) -> Candidates:
    """Compares the query with each allowed item.

    Args:
        bundle: Whose items.
        query: (D,) float32.
        want: How many.
        allowed: (A,) int64, ascending ``item_index``.

    Returns:
        ``min(want, A)`` candidates; equal scores keep the order of the catalogue.
    """
    unit = query / np.linalg.norm(query)
    scores = np.empty(len(allowed), dtype=np.float32)
    for start in range(0, len(allowed), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        embeddings = bundle.item_embeddings(allowed[rows])  # (rows, D)
        norms = np.maximum(np.linalg.norm(embeddings, axis=1), np.finfo(np.float32).tiny)
        scores[rows] = (embeddings @ unit) / norms
    best = np.argsort(-scores, kind="stable")[:want]
    return Candidates(allowed[best], scores[best])


def _over_fetch(bundle: Bundle, query: np.ndarray, want: int, admissible: Admissible) -> Candidates:
    fetch = min(want + len(admissible.excluded), admissible.num_items)
    scores, item_indices = bundle.index.search(query[None], fetch)
    return _kept(item_indices[0], scores[0], admissible, want)


def _kept(item_indices: np.ndarray, scores: np.ndarray, admissible: Admissible, want: int) -> Candidates:
    is_kept = admissible.keep(item_indices)
    return Candidates(item_indices[is_kept][:want], scores[is_kept][:want])
