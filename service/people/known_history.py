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
from service.people.interactions import Interactions

# The newest interactions that are kept of one user, whatever the history store keeps.
_MAX_KEPT = 10_000
# Of an interaction, in Python's strings and in arrays of the items of two catalogues; and of a history besides.
_INTERACTION_BYTES = 120
_BASE_BYTES = 512
# Batches of events since the last read; beyond it they are put together.
_MAX_PIECES = 32


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


class LastHistories:
    """The last history of each user that this process read or was told of. For the event loop.

    Args:
        max_bytes: Of all together; 0 keeps nothing.
        max_age_seconds: Since the last read or event.
        clock: In seconds.
    """

    def __init__(self, *, max_bytes: int, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cache: AgedCache[str, tuple[tuple[float, ReadHistory], ...]] = AgedCache(
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
        return None if kept is None or kept.value[0][1].version is None else kept.value[0][1]

    def keep(self, owner: Owner, history: ReadHistory, *, asked_at: float) -> None:
        """Keeps a history that was read, in place of the one before.

        Args:
            owner: Whose.
            history: What was read.
            asked_at: ``now()`` before it was read: events reported since then may not be in it, and stay.
        """
        kept = self._cache.get(owner.hash)
        newer = [piece for piece in kept.value if piece[0] >= asked_at] if kept is not None else []
        self._put(owner, [(asked_at, history), *newer])

    def add(self, owner: Owner, interactions: Interactions) -> None:
        """Adds interactions that the history store has acknowledged."""
        kept = self._cache.get(owner.hash)
        pieces = [] if kept is None else list(kept.value)
        if len(pieces) >= _MAX_PIECES:
            # as of now: what is read meanwhile may lack some of it
            pieces = [(self._clock(), ReadHistory.made_of(_together(pieces)))]
        self._put(owner, [*pieces, (self._clock(), ReadHistory.made_of(interactions))])

    def last(self, owner: Owner) -> Aged[Interactions] | None:
        """What is known of somebody, oldest first."""
        kept = self._cache.get(owner.hash)
        return None if kept is None else Aged(_together(kept.value), kept.age_seconds)

    def forget(self, owner_hash: str) -> int:
        """Drops what is known of somebody, and says how many interactions that was."""
        return len(_together(self._cache.forget(owner_hash) or ()))

    def forget_all(self) -> None:
        """Drops everything."""
        self._cache.clear()

    def _put(self, owner: Owner, pieces: Sequence[tuple[float, ReadHistory]]) -> None:
        self._cache.put(owner.hash, tuple(pieces), sum(piece.num_bytes for _, piece in pieces))


def _together(pieces: Sequence[tuple[float, ReadHistory]]) -> Interactions:
    # What was reported while a history was read is in both.
    rows = dict.fromkeys(chain.from_iterable(piece.interactions.rows() for _, piece in pieces))
    return Interactions.from_rows(rows).ordered().newest(_MAX_KEPT)
