"""What a model can read of a user's interactions, and what this process still knows of them when Redis is away."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import orjson

from model_store.catalogue.catalogue import Catalogue
from model_store.people.histories import History
from model_store.people.owner import Owner
from service.people.embeddings import Aged, AgedCache
from service.people.history_store import Events
from service.recommend.ask import Interaction

# The newest interactions that are kept of one user, whatever the history store keeps.
_MAX_KEPT = 10_000
# Batches of events since the last read; beyond it they are put together.
_MAX_PIECES = 32


def in_order(history: Sequence[Interaction]) -> Sequence[Interaction]:
    """By timestamp where every entry has one (equal ones keep their order), else as it came."""
    if any(interaction.timestamp is None for interaction in history):
        return history
    return sorted(history, key=lambda interaction: interaction.timestamp or 0)


def known_history(catalogue: Catalogue, events: Events) -> History:
    """All events with items of the catalogue; how many of them are read is for the encoder to say.

    Args:
        catalogue: Of the bundle that answers.
        events: Oldest first.

    Returns:
        (L,) items and timestamps, of nobody; L is 0 where nothing is known.
    """
    indices, timestamps = catalogue.indices_of(events.item_ids), _filled(events.timestamps)
    if indices.all():
        return History(indices, timestamps)
    is_known = indices > 0
    return History(indices[is_known], timestamps[is_known])


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """A stored history as it was read.

    Events are kept as JSON: a tenth of what Python's objects take.

    Attributes:
        packed: The events, oldest first.
        version: Of the stored history; None where not all of it is here.
    """

    packed: bytes
    version: bytes | None = None

    @classmethod
    def pack(cls, events: Events, version: bytes | None = None) -> "ReadHistory":
        """Packs events, oldest first; of very many the newest."""
        columns = (events.item_ids, events.timestamps, events.types)
        packed = orjson.dumps([column[-_MAX_KEPT:] for column in columns])
        return cls(packed, version if len(events) <= _MAX_KEPT else None)

    def events(self) -> Events:
        """As they were read."""
        return Events(*orjson.loads(self.packed))


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

    def add(self, owner: Owner, interactions: Sequence[Interaction]) -> None:
        """Adds interactions that the history store has acknowledged."""
        kept = self._cache.get(owner.hash)
        pieces = [] if kept is None else list(kept.value)
        if len(pieces) >= _MAX_PIECES:
            # as of now: what is read meanwhile may lack some of it
            pieces = [(self._clock(), ReadHistory.pack(Events.from_rows(_together(pieces))))]
        self._put(owner, [*pieces, (self._clock(), ReadHistory.pack(Events.from_rows(interactions)))])

    def last(self, owner: Owner) -> Aged[Sequence[Interaction]] | None:
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
        self._cache.put(owner.hash, tuple(pieces), sum(len(piece.packed) + 128 for _, piece in pieces))


def _together(pieces: Sequence[tuple[float, ReadHistory]]) -> list[Interaction]:
    # What was reported while a history was read is in both.
    interactions = list(dict.fromkeys(chain.from_iterable(piece.events() for _, piece in pieces)))
    return sorted(interactions, key=lambda entry: entry.timestamp or 0)[-_MAX_KEPT:]


def _filled(timestamps: Sequence[int | None]) -> np.ndarray:
    """(L,) int64; a missing one is that of the entry before it, or the first one there is, or 0."""
    if None not in timestamps:
        return np.array(timestamps, dtype=np.int64)
    previous = next((timestamp for timestamp in timestamps if timestamp is not None), 0)
    filled = np.empty(len(timestamps), dtype=np.int64)
    for at, timestamp in enumerate(timestamps):
        previous = previous if timestamp is None else timestamp
        filled[at] = previous
    return filled
