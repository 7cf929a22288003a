"""The histories that this process has read, kept by version: to save reading them again, and for when Redis is away."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from weakref import WeakKeyDictionary

from model_store.catalogue.catalogue import Catalogue
from model_store.people.histories import History
from model_store.people.owner import Owner
from service.people.embeddings import Aged, AgedCache
from service.people.interactions import Interactions, Row

# The newest interactions that are kept of one user, whatever the history store keeps.
_MAX_KEPT = 10_000
# Of an interaction, in Python's strings and in arrays of the items of two catalogues; and of a history besides.
_INTERACTION_BYTES = 120
_BASE_BYTES = 512


@dataclass(frozen=True, slots=True, eq=False)
class ReadHistory:
    """A stored history as it was read.

    Attributes:
        interactions: Oldest first; of very many the newest.
        version: Of the stored history; None where not all of it is here.
        by_catalogue: What a model can read of it, worked out once for each catalogue.
    """

    interactions: Interactions
    version: bytes | None = None
    by_catalogue: "WeakKeyDictionary[Catalogue, History]" = field(default_factory=WeakKeyDictionary)

    @classmethod
    def made_of(cls, interactions: Interactions, version: bytes | None = None) -> "ReadHistory":
        """Of very many interactions the newest are kept, under no version."""
        newest = interactions.newest(_MAX_KEPT)
        return cls(newest, version if newest is interactions else None)

    def known_to(self, catalogue: Catalogue) -> History:
        """As ``Interactions.known_to``."""
        history = self.by_catalogue.get(catalogue)
        if history is None:
            history = self.by_catalogue[catalogue] = self.interactions.known_to(catalogue)
        return history

    @property
    def num_bytes(self) -> int:
        """What it takes, about."""
        return _BASE_BYTES + len(self.interactions) * _INTERACTION_BYTES


@dataclass(slots=True)
class _Kept:
    """What is known of one owner: the history that was read last, and each row reported since, with the time."""

    read: ReadHistory | None = None
    reported: list[tuple[float, Row]] = field(default_factory=list)

    def together(self) -> Interactions:
        """One history; what was reported while the history was read is in both."""
        read = () if self.read is None else self.read.interactions.rows()
        rows = dict.fromkeys(chain(read, (row for _, row in self.reported)))
        return Interactions.from_rows(rows).ordered().newest(_MAX_KEPT)

    @property
    def num_bytes(self) -> int:
        return (0 if self.read is None else self.read.num_bytes) + len(self.reported) * _INTERACTION_BYTES


class LastHistories:
    """The last history of each user that this process read or was told of. For the event loop.

    Args:
        max_bytes: Of all together; 0 keeps nothing.
        max_age_seconds: Since the last read or event.
        clock: In seconds.
    """

    def __init__(self, *, max_bytes: int, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cache: AgedCache[str, _Kept] = AgedCache(
            max_bytes=max_bytes, max_age_seconds=max_age_seconds, clock=clock
        )

    @property
    def num_bytes(self) -> int:
        """What is kept takes, about."""
        return self._cache.num_bytes

    def now(self) -> float:
        """The time to hand to ``keep`` of what is read from now on."""
        return self._clock()

    def last_read(self, owner: Owner) -> ReadHistory | None:
        """The history of somebody as it was last read; None where it is not known, or not all of it."""
        kept = self._cache.get(owner.hash)
        read = None if kept is None else kept.value.read
        return None if read is None or read.version is None else read

    def keep(self, owner: Owner, history: ReadHistory, *, asked_at: float) -> None:
        """Keeps a history that was read, in place of the one before.

        Args:
            owner: Whose.
            history: What was read.
            asked_at: ``now()`` before it was read: events reported since then may not be in it, and stay.
        """
        kept = self._cache.get(owner.hash)
        reported = [] if kept is None else [one for one in kept.value.reported if one[0] >= asked_at]
        self._put(owner, _Kept(history, reported))

    def add(self, owner: Owner, rows: Sequence[Row]) -> None:
        """Adds (item id, timestamp, type) of events that the history store has acknowledged."""
        found, now = self._cache.get(owner.hash), self._clock()
        kept = _Kept() if found is None else found.value
        kept.reported += ((now, row) for row in rows)
        if len(kept.reported) > 2 * _MAX_KEPT:
            del kept.reported[:-_MAX_KEPT]
        self._put(owner, kept)

    def last(self, owner: Owner) -> Aged[Interactions] | None:
        """What is known of somebody, oldest first."""
        kept = self._cache.get(owner.hash)
        return None if kept is None else Aged(kept.value.together(), kept.age_seconds)

    def forget(self, owner_hash: str) -> int:
        """Drops what is known of somebody, and says how many interactions that was."""
        kept = self._cache.forget(owner_hash)
        return 0 if kept is None else len(kept.together())

    def forget_all(self) -> None:
        """Drops everything."""
        self._cache.clear()

    def _put(self, owner: Owner, kept: _Kept) -> None:
        self._cache.put(owner.hash, kept, kept.num_bytes)
