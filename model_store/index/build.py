"""Choosing, building and tuning an index.

``auto`` compares with every item up to 100,000 items, where that takes a few milliseconds. Above, it builds
an IVF index and raises ``nprobe`` until the measured recall meets the target.
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
from model_store.index.recall import measure_recall
from model_store.index.vectors import check_vectors

LOGGER = logging.getLogger(__name__)

AUTO = "auto"
DEFAULT_RECALL_TARGET = 0.98
# the service asks for more than it returns, so the tuning also looks at long lists
_TUNED_K = (10, 100)
# other queries than those of the reported recall, which would flatter it
_TUNING_SEED = 1


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
    factory = choose_factory(len(vectors)) if factory == AUTO else factory
    index = _tuned(build_faiss(vectors, factory), vectors, recall_target)
    recall = measure_recall(index, vectors)
    LOGGER.info("index %s %s over %d items: recall@10 %.4f", factory, index.parameters, len(vectors), recall)
    return BuiltIndex(index=index, factory=factory, parameters=index.parameters, recall=recall)


def choose_factory(num_items: int) -> str:
    """What ``auto`` stands for: exact search, or about ``4 * sqrt(N)`` cells (a power of two)."""
    if num_items <= EXHAUSTIVE_ITEMS:
        return "Flat"
    return f"IVF{2 ** round(math.log2(4 * math.sqrt(num_items)))},Flat"


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


def _tuned(index: FaissIndex, vectors: np.ndarray, target: float) -> FaissIndex:
    """Doubles the effort until the target is met, or until more effort would not help."""
    name, largest = index.effort_name, index.largest_effort
    if name is None:
        return index
    best = 0.0
    while True:
        effort = int(index.parameters[name])
        recall = min(measure_recall(index, vectors, k=k, seed=_TUNING_SEED) for k in _TUNED_K)
        LOGGER.info("%s %d: recall %.4f", name, effort, recall)
        if recall >= target or effort >= largest:
            return index
        best = max(best, recall)
        index = index.with_effort(min(2 * effort, largest))
