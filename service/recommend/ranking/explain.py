"""Why an item is recommended: how much each item of the history weighs. Weights of one item sum to 1.

What a weight means depends on the kind of model. An HLLM mixes a history in many heads and layers, so that its
attention says little about one recommended item; there a weight is likeness: the cosine of the two items'
embeddings, through a softmax. A HatLLM's last layers look at items only, and its weight is that attention; it is
about the user, so it is the same for every recommended item.
"""

import numpy as np

# Cosines of one history mostly lie within a few tenths; at this temperature a tenth is a factor of e.
LIKENESS_TEMPERATURE = 0.1
# Beyond so many reasons in one answer the last items have none: they would cost more than the recommendation.
_MAX_REASONS = 25_000


def likeness_weights(items: np.ndarray, history: np.ndarray) -> np.ndarray:
    """How like each item of the history is to each recommended one.

    Args:
        items: (K, D) float32, directions.
        history: (L, D) float32, directions, L at least 1.

    Returns:
        (K, L) float64, each row a softmax of cosines over ``LIKENESS_TEMPERATURE``.
    """
    cosines = items @ history.T
    weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / LIKENESS_TEMPERATURE)
    return _normalised(weights)


def reasons(weights: np.ndarray, history: np.ndarray) -> list[list[tuple[int, float]]]:
    """Puts weights of places of a history together by item.

    Args:
        weights: (K, L) at least 0, per recommended item.
        history: (L,) int64 item indices, an item as often as it was met.

    Returns:
        Per recommended item pairs (item_index, weight), each item once, the heaviest first (of equal ones the
        latest), summing to 1. Empty lists for the last items if all would be more than an answer may hold.
    """
    items, places = np.unique(history[::-1], return_inverse=True)
    latest = np.full(len(items), len(history))
    np.minimum.at(latest, places, np.arange(len(history)))  # places back from the end
    num_explained = min(len(weights), max(1, _MAX_REASONS // len(items)))
    by_item = np.zeros((num_explained, len(items)))
    np.add.at(by_item.T, places, weights[:num_explained, ::-1].T)
    by_item = _normalised(by_item)
    explained = []
    for row in by_item:
        order = np.lexsort((latest, -row))
        explained.append([(int(items[at]), float(row[at])) for at in order])
    return explained + [[] for _ in range(len(weights) - num_explained)]


def _normalised(weights: np.ndarray) -> np.ndarray:
    rows: np.ndarray = weights.astype(np.float64)
    return rows / rows.sum(axis=1, keepdims=True)
