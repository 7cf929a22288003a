"""Checks and exact arithmetic on embedding matrices, a block of rows at a time."""

from collections.abc import Iterator

import numpy as np

from model_store.errors import InvalidInput

_BLOCK_ROWS = 8_192


def blocks(num_rows: int) -> Iterator[slice]:
    """Slices that cover ``num_rows`` rows; a block of 256 float32 columns takes 8 MiB."""
    for start in range(0, num_rows, _BLOCK_ROWS):
        yield slice(start, min(start + _BLOCK_ROWS, num_rows))


def check_vectors(vectors: np.ndarray) -> None:
    """The gate that embeddings pass before they are indexed.

    Args:
        vectors: (N, D) float32.

    Raises:
        InvalidInput: Wrong shape or dtype, no rows, or a row that is zero or not finite (the first is named).
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32 or 0 in vectors.shape:
        raise InvalidInput(f"vectors have shape {vectors.shape} and dtype {vectors.dtype}, expected (N, D) float32")
    for part in blocks(len(vectors)):
        block = vectors[part]
        is_finite = np.isfinite(block).all(axis=1)
        is_bad = ~is_finite | ~block.any(axis=1)
        if is_bad.any():
            row = int(np.argmax(is_bad))
            problem = "is zero" if is_finite[row] else "is not finite"
            raise InvalidInput(
                f"vector {part.start + row} (counted from 0) {problem}, expected finite values, not all of them 0"
            )


def normalize(vectors: np.ndarray) -> np.ndarray:
    """A unit-norm float32 copy of (..., D) vectors, whatever their size; a vector of zeros stays one."""
    vectors = np.asarray(vectors, dtype=np.float32)
    # scaled first: the squares of tiny or huge entries would leave the range of float32
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    scaled = vectors / np.where(largest == 0, np.float32(1), largest)
    # the largest entry of a scaled vector is 1, so its norm is at least that
    return np.ascontiguousarray(scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), np.float32(1)))


def exact_search(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` highest cosines of each query, by comparing it with every vector.

    Args:
        vectors: (N, D) float32, any norm.
        queries: (B, D) float32, unit norm.
        k: In 1..N.

    Returns:
        (B, k) float32, descending.
    """
    best = np.empty((len(queries), 0), dtype=np.float32)
    for part in blocks(len(vectors)):
        scores = np.concatenate([best, queries @ normalize(vectors[part]).T], axis=1)
        kept = min(k, scores.shape[1])
        best = np.partition(scores, scores.shape[1] - kept, axis=1)[:, -kept:]
    return -np.sort(-best, axis=1)
