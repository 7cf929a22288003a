"""The order of the candidates: by score, or spread out by maximal marginal relevance.

Carbonell and Goldstein, "The use of MMR" (SIGIR 1998), equation 1, with ``lambda = 1 - diversity``.
"""

import numpy as np


def rank(candidate_vectors: np.ndarray, scores: np.ndarray, k: int, *, diversity: float) -> np.ndarray:
    """Chooses and orders k candidates.

    Args:
        candidate_vectors: (C, D) float32, raw.
        scores: (C,) float32, cosines or other numbers of that size, descending.
        k: How many, at most C.
        diversity: 0 keeps the order of the scores; 1 looks at nothing but the difference to what was
            already chosen.

    Returns:
        (min(k, C),) int64 positions in ``scores``.
    """
    k = min(k, len(scores))
    if diversity == 0.0 or k == 0:
        return np.arange(k)
    unit = _unit(candidate_vectors)
    nearest = np.full(len(scores), -np.inf, dtype=np.float32)  # cosine to the nearest chosen item
    chosen: list[int] = [0]  # the best candidate comes first whatever the diversity
    is_free = np.ones(len(scores), dtype=bool)
    is_free[0] = False
    while len(chosen) < k:
        nearest = np.maximum(nearest, unit @ unit[chosen[-1]])
        gain = np.where(is_free, (1.0 - diversity) * scores - diversity * nearest, -np.inf)
        best = int(np.argmax(gain))
        is_free[best] = False
        chosen.append(best)
    return np.array(chosen, dtype=np.int64)


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    unit: np.ndarray = vectors / norms
    return unit
