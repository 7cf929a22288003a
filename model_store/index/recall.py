"""How much of the exact result an index finds."""

import numpy as np

from model_store.errors import InvalidInput
from model_store.index.protocol import VectorIndex
from model_store.index.vectors import exact_search, unit

# cosines that differ by less than this are ties: the rounding error of a float32 dot product
_TIE = 1e-5


def sample_queries(vectors: np.ndarray, *, num_queries: int, seed: int) -> np.ndarray:
    """Queries that lie where users lie: between two items rather than on one.

    Args:
        vectors: (N, D) float32, any norm.
        num_queries: B.
        seed: Of the sample.

    Returns:
        (B, D) float32, unit norm.
    """
    random = np.random.default_rng(seed)
    pairs = random.integers(len(vectors), size=(num_queries, 2))
    first, second = unit(vectors[pairs[:, 0]]), unit(vectors[pairs[:, 1]])
    # uneven weights, so that two opposite items do not cancel out
    return unit(first + np.float32(0.8) * second)


def measure_recall(
    index: VectorIndex,
    vectors: np.ndarray,
    *,
    k: int = 10,
    num_queries: int = 256,
    seed: int = 0,
    queries: np.ndarray | None = None,
) -> float:
    """Recall@k of an index against exact search; items that tie with the k-th best count as found.

    Args:
        index: The index over ``vectors``.
        vectors: (N, D) float32, any norm; row ``i`` is ``item_index`` ``i + 1``.
        k: Cut to N.
        num_queries: Size of the sample if ``queries`` is None.
        seed: Of that sample.
        queries: (B, D) float32 of any norm, such as embeddings of real users.

    Returns:
        In [0, 1].
    """
    if len(vectors) != index.num_items:
        raise InvalidInput(f"index has {index.num_items} items, but there are {len(vectors)} vectors")
    if queries is None:
        queries = sample_queries(vectors, num_queries=num_queries, seed=seed)
    queries, k = unit(queries), min(k, len(vectors))
    _, found = index.search(queries, k)
    threshold = exact_search(vectors, queries, k)[:, -1:]
    # scores are recomputed, because a quantising index reports approximate ones
    neighbours = unit(vectors[np.maximum(found, 1) - 1].reshape(-1, vectors.shape[1]))
    scores = np.einsum("bkd,bd->bk", neighbours.reshape(*found.shape, -1), queries)
    return float(np.mean((scores >= threshold - _TIE) & (found > 0)))
