"""Choosing, building and tuning an index.

``auto`` compares with every item up to 100,000 items, where that takes a few milliseconds. Above, it builds
an IVF index and raises ``nprobe`` until the measured recall meets the target. Where the vectors have no clusters
(whitened ones may have none), that would come to scanning nearly every cell, more slowly than without cells: over
120,000 x 128 Gaussian vectors, one query on one core took 11.8 ms by IVF with all of its 1,024 cells, 15.8 ms by
HNSW at recall 0.99 and 3.5 ms by comparing with every item. ``auto`` then takes the latter, in half precision.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model_store.errors import InvalidInput
from model_store.index.faiss_index import EXHAUSTIVE_ITEMS, FaissIndex, build_faiss, load_faiss
from model_store.index.protocol import BuiltIndex, VectorIndex
from model_store.index.recall import RecallProbe, measure_recall, sample_queries
from model_store.index.vectors import check_vectors

LOGGER = logging.getLogger(__name__)

AUTO = "auto"
DEFAULT_RECALL_TARGET = 0.98
# the service asks for more than it returns, so the tuning also looks at long lists
_TUNED_K = (10, 100)
# beyond this share of the cells, comparing with every item is quicker
_LARGEST_SHARE = 1 / 8
# what a quantising index loses, no effort brings back
_LEAST_GAIN = 0.001
# other queries than those of the reported recall, which would flatter it
_TUNING_SEED = 1
_TUNING_QUERIES = 256


def build_index(
    vectors: np.ndarray, *, factory: str = AUTO, recall_target: float = DEFAULT_RECALL_TARGET
) -> BuiltIndex:
    """Builds an index over item embeddings and measures it.

    Args:
        vectors: (N, D) float32, raw; row ``i`` is ``item_index`` ``i + 1``. Unit-norm copies are indexed.
        factory: ``auto`` or any FAISS factory string.
        recall_target: In (0, 1]; the search effort is raised until recall@10 and recall@100 reach it.

    Raises:
        InvalidInput: Vectors that are zero or not finite, an unknown factory string, a target out of range.
    """
    if not 0.0 < recall_target <= 1.0:
        raise InvalidInput(f"recall target is {recall_target}, expected more than 0 and at most 1")
    check_vectors(vectors)
    if factory == AUTO:
        index = _best(vectors, recall_target)
    else:
        index = build_faiss(vectors, factory)
        if index.effort_name is not None:
            index, _ = _tuned(index, vectors, recall_target)
    recall = measure_recall(index, vectors)
    if recall < recall_target:
        LOGGER.warning("index %s reaches recall@10 %.4f, the target is %.4f", index.factory, recall, recall_target)
    LOGGER.info("index %s %s over %d items: recall@10 %.4f", index.factory, index.parameters, len(vectors), recall)
    return BuiltIndex(index=index, factory=index.factory, parameters=index.parameters, recall=recall)


def num_cells(num_items: int) -> int:
    """Cells of the IVF index that ``auto`` builds: the power of two nearest to ``4 * sqrt(N)``."""
    return 2 ** round(math.log2(4 * math.sqrt(num_items)))


def save_index(index: VectorIndex, path: Path) -> None:
    """Writes an index to a file, atomically."""
    index.save(path)


def load_index(path: Path, parameters: Mapping[str, Any], *, factory: str = "") -> VectorIndex:
    """Opens the index in a file.

    Args:
        path: What ``save_index`` wrote.
        parameters: ``BuiltIndex.parameters``.
        factory: ``BuiltIndex.factory``.

    Raises:
        ArtifactNotFound, ArtifactCorrupt: The file is missing or not an index.
    """
    return load_faiss(path, factory=factory, parameters=parameters)


def _best(vectors: np.ndarray, target: float) -> FaissIndex:
    """What ``auto`` stands for."""
    if len(vectors) <= EXHAUSTIVE_ITEMS:
        return build_faiss(vectors, "Flat")
    cells = num_cells(len(vectors))
    index, recall = _tuned(build_faiss(vectors, f"IVF{cells},Flat"), vectors, target, limit=int(cells * _LARGEST_SHARE))
    if recall >= target:
        return index
    LOGGER.info("no clusters to make use of: recall %.4f in %d of %d cells", recall, cells * _LARGEST_SHARE, cells)
    return build_faiss(vectors, "SQfp16")


def _tuned(
    index: FaissIndex, vectors: np.ndarray, target: float, *, limit: int | None = None
) -> tuple[FaissIndex, float]:
    """Doubles the effort until the target is met, the limit is reached, or doubling it gains next to nothing.

    Returns:
        The tuned index and its recall, the lower one of those at 10 and at 100.
    """
    name, limit = index.effort_name, limit or index.largest_effort
    queries = sample_queries(vectors, num_queries=_TUNING_QUERIES, seed=_TUNING_SEED)
    probe = RecallProbe.make(vectors, queries, largest_k=max(_TUNED_K))
    previous = -1.0
    while True:
        recall = min(probe.recall(index, k) for k in _TUNED_K)
        effort = int(index.parameters[name]) if name else limit
        LOGGER.info("%s %s: recall %.4f", index.factory, index.parameters, recall)
        if recall >= target or effort >= limit or recall - previous < _LEAST_GAIN:
            return index, recall
        previous = recall
        index = index.with_effort(min(2 * effort, limit))
