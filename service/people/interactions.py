"""A history on its way: what somebody did, oldest first, a column for each thing that is known of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from model_store.catalogue.catalogue import Catalogue
from model_store.people.histories import History

# The time of an interaction of which nobody said when it was.
NO_TIME = int(np.iinfo(np.int64).min)


# One interaction: item id, timestamp, type; None where nobody said.
Row = tuple[str, int | None, str | None]


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """What somebody did, oldest first.

    Attributes:
        item_ids: L, with what; they need not be in the catalogue.
        timestamps: (L,) int64, when, in seconds since 1970; ``NO_TIME`` where nobody said.
        types: L, in which way; None where nobody said.
    """

    item_ids: Sequence[str] = ()
    timestamps: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    types: Sequence[str | None] = ()

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> "Interactions":
        """From (item id, timestamp, type), oldest first."""
        listed = list(rows)
        timestamps = [NO_TIME if timestamp is None else timestamp for _, timestamp, _ in listed]
        return cls(
            tuple(item_id for item_id, _, _ in listed),
            np.array(timestamps, dtype=np.int64),
            tuple(kind for _, _, kind in listed),
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    def rows(self) -> Iterator[Row]:
        """(item id, timestamp, type), oldest first."""
        times = (None if time == NO_TIME else time for time in self.timestamps.tolist())
        return zip(self.item_ids, times, self.types, strict=True)

    def ordered(self) -> "Interactions":
        """By time where all of them have one (equal times keep their order), else as they are."""
        times = self.timestamps
        if not len(times) or times.min() == NO_TIME or bool((times[1:] >= times[:-1]).all()):
            return self
        return self._at(np.argsort(times, kind="stable"))

    def newest(self, number: int) -> "Interactions":
        """The last ones."""
        if len(self) <= number:
            return self
        return Interactions(self.item_ids[-number:], self.timestamps[-number:], self.types[-number:])

    def oldest(self, number: int) -> "Interactions":
        """The first ones."""
        return Interactions(self.item_ids[:number], self.timestamps[:number], self.types[:number])

    def known_to(self, catalogue: Catalogue) -> History:
        """(L,) items of the catalogue and their times, of nobody; how many are read is for the encoder to say.

        A time that nobody said is that of the interaction before, or the first one there is, or 0.
        """
        indices = catalogue.indices_of(self.item_ids)
        is_known = indices > 0
        return History(indices[is_known], self._filled_times()[is_known])

    def _filled_times(self) -> np.ndarray:
        is_said = self.timestamps != NO_TIME
        if is_said.all():
            return self.timestamps
        if not is_said.any():
            return np.zeros(len(self), dtype=np.int64)
        last_said = np.maximum.accumulate(np.where(is_said, np.arange(len(self)), -1))
        last_said[last_said < 0] = np.argmax(is_said)
        filled: np.ndarray = self.timestamps[last_said]
        return filled

    def _at(self, places: np.ndarray) -> "Interactions":
        return Interactions(
            tuple(self.item_ids[at] for at in places.tolist()),
            self.timestamps[places],
            tuple(self.types[at] for at in places.tolist()),
        )


NO_INTERACTIONS = Interactions()


def joined(histories: Sequence[Interactions]) -> Interactions:
    """One history of several, by time."""
    if len(histories) == 1:
        return histories[0]
    return Interactions(
        tuple(item_id for one in histories for item_id in one.item_ids),
        np.concatenate([one.timestamps for one in histories]) if histories else NO_INTERACTIONS.timestamps,
        tuple(kind for one in histories for kind in one.types),
    ).ordered()
