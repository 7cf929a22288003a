"""How much of the exact result an index finds."""

from dataclasses import dataclass

import numpy as np

from model_store.errors import InvalidInput
from model_store.index.protocol import VectorIndex
from model_store.index.vectors import exact_search, normalize

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
    first, second = normalize(vectors[pairs[:, 0]]), normalize(vectors[pairs[:, 1]])
    # uneven weights, so that two opposite items do not cancel out
    return normalize(first + np.float32(0.8) * second)


@dataclass(frozen=True)
class RecallProbe:
    """Queries with their exact answers, to measure several indexes or settings against.

    Attributes:
        vectors: (N, D) float32, any norm; row ``i`` is ``item_index`` ``i + 1``.
        queries: (B, D) float32, unit norm.
        best: (B, up to N) float32, the highest cosines of each query, descending.
    """

    vectors: np.ndarray
    queries: np.ndarray
    best: np.ndarray

    @classmethod
    def make(cls, vectors: np.ndarray, queries: np.ndarray, *, largest_k: int) -> "RecallProbe":
        """Answers the queries exactly, up to ``largest_k`` items each."""
        queries = normalize(queries)
        return cls(vectors, queries, exact_search(vectors, queries, min(largest_k, len(vectors))))

    def recall(self, index: VectorIndex, k: int) -> float:
        """Recall@k in [0, 1]; items that tie with the k-th best count as found.

        Args:
            index: An index over ``vectors``.
            k: Cut to the number of exact answers.
        """
        k = min(k, self.best.shape[1])
        _, found = index.search(self.queries, k)
        # scores are recomputed, because a quantising index reports approximate ones
        neighbours = normalize(self.vectors[np.maximum(found, 1).ravel() - 1]).reshape(*found.shape, -1)
        scores = np.einsum("bkd,bd->bk", neighbours, self.queries)
        return float(np.mean((scores >= self.best[:, k - 1 : k] - _TIE) & (found > 0)))


def measure_recall(
    index: VectorIndex,
    vectors: np.ndarray,
    *,
    k: int = 10,
    num_queries: int = 256,
    seed: int = 0,
    queries: np.ndarray | None = None,
) -> float:
    """Recall@k of an index against exact search.

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
    return RecallProbe.make(vectors, queries, largest_k=k).recall(index, k)
