"""The order of a list: by score, spread out by maximal marginal relevance, under caps, and with pinned items.

Carbonell and Goldstein, "The use of MMR" (SIGIR 1998), equation 1, with ``lambda = 1 - diversity``.

A list is made from its top to its bottom, and what comes next depends on what is there and on nothing else. So a
list of 10 is the beginning of the list of 500, and pages of a list fit together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.recommend.candidates.admissible import Admissible
from service.recommend.candidates.caps import Caps

# With diversity, this many candidates are looked at, whatever the length of the list.
MMR_POOL = 1_000
# Without, what is missing is fetched, and twice as much each time that caps leave nothing of it, up to this.
_LARGEST_DRAW = 4_096


@dataclass(frozen=True)
class Drawn:
    """Candidates of one source.

    Attributes:
        item_indices: (C,) int64, the most relevant first.
        scores: (C,) float32, what the answer shows.
        relevance: (C,) floats, descending; what the order is made by, on the scale of a cosine.
    """

    item_indices: np.ndarray
    scores: np.ndarray
    relevance: np.ndarray


NO_DRAW = Drawn(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32))

# The best ``want`` candidates of a source among the admissible ones; fewer only where it has no more.
Draw = Callable[[int, Admissible], Drawn]


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of a list: the item, its score, and the source that it came from."""

    item_index: int
    score: float
    origin: str


class Lister:
    """Makes a list.

    Args:
        admissible: What may be in it.
        want: How many items it is to have.
        diversity: 0: by relevance alone; 1: by difference to the items before alone.
        vectors: Raw embeddings (C, D) of item indices (C,).
        caps: How many of a kind may be in it.
        pins: Places (from 1, each once) and items. Those that may not be returned, or do not fit under the caps, are
            left out; the others have their place, or come last where the list ends before it.
    """

    def __init__(
        self,
        admissible: Admissible,
        *,
        want: int,
        diversity: float,
        vectors: Callable[[np.ndarray], np.ndarray],
        caps: Caps,
        pins: Sequence[tuple[int, Entry]] = (),
    ) -> None:
        self._admissible = admissible
        self._want = want
        self._diversity = diversity
        self._vectors = vectors
        self._caps = caps
        self.entries: list[Entry] = []
        self.num_capped = 0
        # Pinned items are counted before all others, wherever they stand, so that no cap is broken by a later one.
        self._pins: dict[int, Entry] = {}
        pinned = admissible.keep(np.array([entry.item_index for _, entry in pins], dtype=np.int64))
        for (position, entry), is_admissible in sorted(zip(pins, pinned, strict=True), key=lambda pin: pin[0][0]):
            if is_admissible and caps.admits(entry.item_index):
                caps.take(entry.item_index)
                self._pins[position] = entry
        self._reserved = [entry.item_index for entry in self._pins.values()]
        self._chosen_vectors: list[np.ndarray] = []  # unit, of all entries; with diversity only

    @property
    def num_missing(self) -> int:
        """How many items the list still lacks."""
        return self._want - len(self.entries)

    @property
    def num_unpinned_missing(self) -> int:
        """How many of these are to be found: the rest are pinned items that come before the list ends."""
        return self.num_missing - sum(position <= self._want for position in self._pins)

    def rest(self) -> Admissible:
        """What may still be put into the list."""
        taken = [*(entry.item_index for entry in self.entries), *self._reserved]
        rest = self._admissible.without(np.array(taken, dtype=np.int64)) if taken else self._admissible
        is_open = self._caps.open_rows()
        return rest if is_open is None else rest.within(is_open)

    def fill(self, draw: Draw, origin: str) -> None:
        """Goes on with the candidates of a source until the list is full, or the source has no more."""
        size = MMR_POOL if self._diversity > 0 else self.num_missing
        while True:
            self._place_pins()
            if self.num_missing <= 0:
                return
            drawn = draw(size, self.rest())
            if not len(drawn.item_indices):
                return
            if self._diversity > 0:
                self._take_spread(drawn, origin)
            else:
                self._take_in_order(drawn, origin)
            size = max(size, min(2 * size, _LARGEST_DRAW))

    def finish(self) -> list[Entry]:
        """The list; pinned items whose place was never reached are its last ones."""
        self._place_pins()
        for position in sorted(self._pins):
            if self.num_missing <= 0:
                break
            self._append(self._pins.pop(position))
        return self.entries

    def _take_in_order(self, drawn: Drawn, origin: str) -> None:
        for item_index, score in zip(drawn.item_indices.tolist(), drawn.scores.tolist(), strict=True):
            if self.num_missing <= 0:
                return
            if self._caps.admits(item_index):
                self._caps.take(item_index)
                self._append(Entry(item_index, score, origin))
                self._place_pins()
            else:
                self.num_capped += 1

    def _take_spread(self, drawn: Drawn, origin: str) -> None:
        unit = _unit(self._vectors(drawn.item_indices))
        nearest = np.full(len(unit), -np.inf, dtype=np.float32)  # cosine to the nearest item of the list
        is_free = np.ones(len(unit), dtype=bool)
        num_seen = 0
        while self.num_missing > 0 and is_free.any():
            for vector in self._chosen_vectors[num_seen:]:
                nearest = np.maximum(nearest, unit @ vector)
            num_seen = len(self._chosen_vectors)
            at = self._best(drawn.relevance, nearest, is_free)
            is_free[at] = False
            item_index = int(drawn.item_indices[at])
            if self._caps.admits(item_index):
                self._caps.take(item_index)
                self._append(Entry(item_index, float(drawn.scores[at]), origin))
                self._place_pins()
            else:
                self.num_capped += 1

    def _best(self, relevance: np.ndarray, nearest: np.ndarray, is_free: np.ndarray) -> int:
        if not self._chosen_vectors:
            return 0  # the most relevant item comes first whatever the diversity
        gain = (1.0 - self._diversity) * relevance - self._diversity * nearest
        return int(np.argmax(np.where(is_free, gain, -np.inf)))

    def _place_pins(self) -> None:
        while self.num_missing > 0 and (entry := self._pins.pop(len(self.entries) + 1, None)) is not None:
            self._append(entry)

    def _append(self, entry: Entry) -> None:
        self.entries.append(entry)
        if self._diversity > 0:
            self._chosen_vectors.append(_unit(self._vectors(np.array([entry.item_index])))[0])


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    unit: np.ndarray = vectors / norms
    return unit
