"""What every vector index promises, whichever engine is behind it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class VectorIndex(Protocol):
    """Cosine search over item embeddings. Safe to search from several threads at once."""

    @property
    def num_items(self) -> int:
        """N, number of items."""

    @property
    def embedding_dim(self) -> int:
        """D, width of a vector."""

    @property
    def factory(self) -> str:
        """The string that the index was built from, such as ``Flat``."""

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest items; exactly ``k`` of them wherever that many are allowed.

        Args:
            queries: (B, D) float32 of any norm but zero.
            k: At least 1.
            allowed: (any,) int64, the only ``item_index`` that may be returned; all items if None.

        Returns:
            (B, k) float32 cosine, descending, and (B, k) int64 ``item_index``. Where fewer than ``k`` items
            are allowed, the rest is ``-inf`` and 0.

        Raises:
            InvalidInput: Wrong shape, not finite, a zero query, ``k`` < 1, or ``allowed`` outside 0..N.
        """

    def save(self, path: Path) -> None:
        """Writes the index to a file, atomically."""


@dataclass(frozen=True)
class BuiltIndex:
    """A new index and what was measured of it.

    Attributes:
        index: Ready to search.
        factory: The factory string that was chosen or given.
        parameters: What ``load_index`` needs to search in the same way, such as ``nprobe``.
        recall: Share of the true nearest 10 that it finds, in [0, 1].
    """

    index: VectorIndex
    factory: str
    parameters: dict[str, Any]
    recall: float
