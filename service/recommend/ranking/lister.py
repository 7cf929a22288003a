"""The order of a list: by score, spread out by maximal marginal relevance, under caps, and with pinned items.

Carbonell and Goldstein, "The use of MMR" (SIGIR 1998), equation 1, with ``lambda = 1 - diversity``.

A list is made from its top to its bottom, and what comes next depends on what is there and on nothing else. So a
list of 10 is the beginning of the list of 500, and pages of a list fit together.
"""

from collections.abc import Callable, Mapping

import numpy as np

from service.recommend.candidates.admissible import Admissible
from service.recommend.candidates.caps import Caps
from service.recommend.ranking.candidates import PINNED, Candidates
from service.recommend.ranking.sources import Source

# With diversity, this many candidates are looked at, whatever the length of the list.
MMR_POOL = 1_000
# Without, what is missing is fetched, and twice as much each time that caps leave nothing of it, up to this.
_LARGEST_FETCH = 4_096


class Lister:
    """Makes a list.

    Args:
        admissible: What may be in it.
        want: How many items it is to have.
        diversity: 0: by relevance alone; 1: by difference to the items before alone.
        directions: Item indices (C,) to directions (C, D).
        caps: How many of a kind may be in it.
        pins: Place (from 1) to ``item_index`` and score. Those that may not be returned, or do not fit under the caps,
            are left out; the others have their place, or come last where the list ends before it.
    """

    def __init__(
        self,
        admissible: Admissible,
        *,
        want: int,
        diversity: float,
        directions: Callable[[np.ndarray], np.ndarray],
        caps: Caps,
        pins: Mapping[int, tuple[int, float]],
    ) -> None:
        self._admissible = admissible
        self._want = want
        self._diversity = diversity
        self._directions = directions
        self._caps = caps
        self._items: list[int] = []
        self._scores: list[float] = []
        self._origins: list[int] = []
        self._chosen_vectors: list[np.ndarray] = []  # unit, of all items of the list; with diversity only
        self.num_capped = 0
        self._pins = self._fitting(pins) if pins else {}
        self._reserved = [item_index for item_index, _ in self._pins.values()]

    @property
    def num_missing(self) -> int:
        """How many items the list still lacks."""
        return self._want - len(self._items)

    @property
    def num_unpinned_missing(self) -> int:
        """How many of these are to be found: the rest are pinned items that come before the list ends."""
        return self.num_missing - sum(position <= self._want for position in self._pins)

    def fill(self, source: Source, origin: int) -> None:
        """Goes on with the candidates of a source until the list is full, or the source has no more."""
        size = MMR_POOL if self._diversity > 0 else self.num_missing
        while True:
            self._place_pins()
            if self.num_missing <= 0:
                return
            found = source(size, self._rest())
            if not len(found):
                return
            if self._diversity > 0:
                self._take_spread(found, origin)
            elif self._pins or self._caps.has_any:
                self._take_one_by_one(found, origin)
            else:
                self._take_all(found, origin)
            size = max(size, min(2 * size, _LARGEST_FETCH))

    def finish(self) -> Candidates:
        """The list; pinned items whose place was never reached are its last ones."""
        self._place_pins()
        for position in sorted(self._pins):
            if self.num_missing <= 0:
                break
            self._append(*self._pins.pop(position), PINNED)
        return Candidates(
            np.array(self._items, dtype=np.int64),
            np.array(self._scores, dtype=np.float32),
            np.array(self._origins, dtype=np.uint8),
        )

    def _fitting(self, pins: Mapping[int, tuple[int, float]]) -> dict[int, tuple[int, float]]:
        """The pinned items that may be in the list.

        They are counted before all others, wherever they stand, so that no cap is broken by a later one.
        """
        fitting: dict[int, tuple[int, float]] = {}
        for position, (item_index, score) in sorted(pins.items()):
            if self._admissible.keep(np.array([item_index]))[0] and self._caps.admits(item_index):
                self._caps.take(item_index)
                fitting[position] = item_index, score
        return fitting

    def _rest(self) -> Admissible:
        """What may still be put into the list."""
        taken = [*self._items, *self._reserved]
        rest = self._admissible.without(np.array(taken, dtype=np.int64)) if taken else self._admissible
        is_open = self._caps.open_rows()
        return rest if is_open is None else rest.within(is_open)

    def _take_all(self, found: Candidates, origin: int) -> None:
        num_taken = min(self.num_missing, len(found))
        self._items += found.item_indices[:num_taken].tolist()
        self._scores += found.scores[:num_taken].tolist()
        self._origins += [origin] * num_taken

    def _take_one_by_one(self, found: Candidates, origin: int) -> None:
        for item_index, score in zip(found.item_indices.tolist(), found.scores.tolist(), strict=True):
            if self.num_missing <= 0:
                return
            self._take(item_index, score, origin)

    def _take_spread(self, found: Candidates, origin: int) -> None:
        directions = self._directions(found.item_indices)
        nearest = np.full(len(found), -np.inf, dtype=np.float32)  # cosine to the nearest item of the list
        is_free = np.ones(len(found), dtype=bool)
        num_compared = 0
        while self.num_missing > 0 and is_free.any():
            for vector in self._chosen_vectors[num_compared:]:
                nearest = np.maximum(nearest, directions @ vector)
            num_compared = len(self._chosen_vectors)
            at = self._best(found.gains, nearest, is_free)
            is_free[at] = False
            self._take(int(found.item_indices[at]), float(found.scores[at]), origin)

    def _best(self, relevance: np.ndarray, nearest: np.ndarray, is_free: np.ndarray) -> int:
        if not self._chosen_vectors:
            return 0  # the most relevant item comes first whatever the diversity
        gain = (1.0 - self._diversity) * relevance - self._diversity * nearest
        return int(np.argmax(np.where(is_free, gain, -np.inf)))

    def _take(self, item_index: int, score: float, origin: int) -> None:
        """Takes an item if it fits under the caps."""
        if not self._caps.admits(item_index):
            self.num_capped += 1
            return
        self._caps.take(item_index)
        self._append(item_index, score, origin)
        self._place_pins()

    def _place_pins(self) -> None:
        while self.num_missing > 0 and (pin := self._pins.pop(len(self._items) + 1, None)) is not None:
            self._append(*pin, PINNED)

    def _append(self, item_index: int, score: float, origin: int) -> None:
        self._items.append(item_index)
        self._scores.append(score)
        self._origins.append(origin)
        if self._diversity > 0:
            self._chosen_vectors.append(self._directions(np.array([item_index]))[0])
