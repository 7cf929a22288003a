"""What is served when the model cannot answer: what is like the latest items, then what is popular."""

import numpy as np

from model_store.artifacts.bundle import Bundle
from model_store.catalogue.catalogue import Catalogue
from service.recommend.candidates.admissible import Admissible

# Items that "similar to the latest ones" looks at: few, or the mean is like nothing in particular.
NUM_LATEST = 5
# Popular items are looked at in pieces of at least this many, as most often the first few suffice.
_PIECE = 1_024


def popular_items(catalogue: Catalogue, want: int, admissible: Admissible) -> np.ndarray:
    """The most popular admissible items.

    Returns:
        ``min(want, admissible.count())`` item indices, int64, the most popular first.
    """
    return _first_kept(catalogue.popular(), want, admissible)


def has_admissible(items: np.ndarray | None, admissible: Admissible) -> bool:
    """Whether any of these items may be returned."""
    return items is not None and len(_first_kept(items, 1, admissible)) > 0


def latest_vector(bundle: Bundle, history: np.ndarray) -> np.ndarray | None:
    """What the latest items have in common.

    Args:
        bundle: Whose items.
        history: (L,) int64 item indices, oldest first.

    Returns:
        (D,) float32, the unit-norm mean of the unit-norm embeddings of the latest items; of the latest one alone where
        they cancel each other out. None for an empty history, or where no embedding has a direction.
    """
    embeddings = bundle.item_embeddings(history[-NUM_LATEST:])
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings[norms[:, 0] > 0] / norms[norms[:, 0] > 0]
    if not len(unit):
        return None
    mean: np.ndarray = unit.mean(axis=0)
    length = float(np.linalg.norm(mean))
    return mean / np.float32(length) if length > np.finfo(np.float32).eps else unit[-1]


def _first_kept(items: np.ndarray, want: int, admissible: Admissible) -> np.ndarray:
    """The first ``want`` of these items that may be returned."""
    kept: list[np.ndarray] = []
    start, missing, size = 0, want, max(_PIECE, 2 * want)
    while missing > 0 and start < len(items):
        piece = items[start : start + size]
        kept.append(piece[admissible.keep(piece)][:missing])
        missing -= len(kept[-1])
        start += size
        size *= 2
    return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
