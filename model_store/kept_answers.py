"""The last user embedding of each of the latest users, good for exactly the history that it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_store.histories import History
from model_store.owner_cache import OwnerCache

MAX_BYTES = 32 * 2**20
_OVERHEAD_BYTES = 512


@dataclass(frozen=True)
class _Answer:
    history: History
    embedding: np.ndarray

    @property
    def num_bytes(self) -> int:
        arrays = (self.history.item_indices, self.history.timestamps, self.embedding)
        return sum(array.nbytes for array in arrays) + _OVERHEAD_BYTES


class KeptAnswers:
    """Answers of histories that have an owner; safe to use from several threads.

    Args:
        max_bytes: Of all of them together.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._answers: OwnerCache[_Answer] = OwnerCache(max_bytes)

    @property
    def num_bytes(self) -> int:
        """Memory taken."""
        return self._answers.num_bytes

    def now(self) -> int:
        """To be handed to :meth:`put`; see :class:`OwnerCache`."""
        return self._answers.now()

    def peek(self, history: History) -> np.ndarray | None:
        """The (D,) embedding, if the owner's last history was this very one.

        Args:
            history: Cut to what the model reads of it.
        """
        kept = None if history.owner is None else self._answers.get(history.owner)
        if kept is None:
            return None
        is_same = np.array_equal(kept.history.item_indices, history.item_indices)
        return kept.embedding if is_same and np.array_equal(kept.history.timestamps, history.timestamps) else None

    def put(self, histories: Sequence[History], embeddings: np.ndarray, *, since: int) -> None:
        """Keeps the (B, D) embeddings of those of B histories that have an owner."""
        for history, embedding in zip(histories, embeddings, strict=True):
            if history.owner is not None:
                self._answers.put(history.owner, _Answer(history, embedding.copy()), since=since)

    def forget(self, owner: str) -> bool:
        """Drops a user's answer; whether there was one."""
        return self._answers.forget(owner)
