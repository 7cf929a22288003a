"""Candidates: the one form of a list from the search to the last check; three arrays that go together."""

from dataclasses import dataclass, field

import numpy as np

# Where an item of a list comes from; codes of ``Candidates.origins``.
GENERATED, RETRIEVED, POPULAR, PINNED = range(4)
_NO_ORIGINS = np.empty(0, dtype=np.uint8)
ORIGINS = ("generated", "retrieved", "popular", "pinned")


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Items in their order, the best first.

    Attributes:
        item_indices: (C,) int64, each once.
        scores: (C,) float32, what the answer shows: a log-probability of a generated item, a cosine of a retrieved
            one, 0 where no model scored it.
        origins: (C,) uint8, a code each; empty where all are of one origin, as what a source finds.
        relevance: (C,) floats, descending, on the scale of a cosine: what the order is made by; None: the scores.
    """

    item_indices: np.ndarray
    scores: np.ndarray
    origins: np.ndarray = field(default_factory=lambda: _NO_ORIGINS)
    relevance: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.item_indices)

    def take(self, places: np.ndarray | slice) -> "Candidates":
        """Some of them: a bool mask, places, or a slice."""
        return Candidates(
            self.item_indices[places],
            self.scores[places],
            self.origins[places] if len(self.origins) else self.origins,
            None if self.relevance is None else self.relevance[places],
        )

    @property
    def gains(self) -> np.ndarray:
        """(C,) floats, what the order is made by."""
        return self.scores if self.relevance is None else self.relevance


NO_CANDIDATES = Candidates(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
