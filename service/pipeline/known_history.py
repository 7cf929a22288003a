"""What a model can read of a user's interactions, and what this process still knows of them when Redis is away."""

import time
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import orjson

from model_store.catalogue import Catalogue
from model_store.event_log import Owner
from model_store.user_encoder import History
from service.engine.user_embeddings import Aged, AgedCache
from service.pipeline.query import Interaction

# The newest interactions that are kept of one user, whatever the history store keeps.
_MAX_KEPT = 10_000
# Batches of events since the last read; beyond it they are put together.
_MAX_PIECES = 32


def in_order(history: Sequence[Interaction]) -> Sequence[Interaction]:
    """By timestamp where every entry has one (equal ones keep their order), else as it came."""
    if any(interaction.timestamp is None for interaction in history):
        return history
    return sorted(history, key=lambda interaction: interaction.timestamp or 0)


def known_history(catalogue: Catalogue, interactions: Sequence[Interaction]) -> History:
    """All interactions with items of the catalogue; how many of them are read is for the encoder to say.

    Args:
        catalogue: Of the bundle that answers.
        interactions: Oldest first.

    Returns:
        (L,) items and timestamps, of nobody; L is 0 where nothing is known.
    """
    indices = catalogue.indices_of(interaction.item_id for interaction in interactions)
    is_known = indices > 0
    timestamps = _filled([interaction.timestamp for interaction in interactions])
    return History(indices[is_known], timestamps[is_known])


class LastHistories:
    """The last history of each user that this process read or was told of. For the event loop.

    Interactions are kept as JSON: a tenth of what Python's objects take.

    Args:
        max_bytes: Of all together; 0 keeps nothing.
        max_age_seconds: Since the last read or event.
        clock: In seconds.
    """

    def __init__(self, *, max_bytes: int, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cache: AgedCache[str, tuple[tuple[float, bytes], ...]] = AgedCache(
            max_bytes=max_bytes, max_age_seconds=max_age_seconds, clock=clock
        )

    @property
    def num_bytes(self) -> int:
        """What is kept takes, about."""
        return self._cache.num_bytes

    def now(self) -> float:
        """The time to hand to ``keep`` of what is read from now on."""
        return self._clock()

    def keep(self, owner: Owner, interactions: Sequence[Interaction], *, asked_at: float) -> None:
        """Keeps a history that was read, in place of the one before.

        Args:
            owner: Whose.
            interactions: Oldest first.
            asked_at: ``now()`` before it was read: events reported since then may not be in it, and stay.
        """
        kept = self._cache.get(owner.hash)
        newer = [piece for piece in kept.value if piece[0] >= asked_at] if kept is not None else []
        self._put(owner, [(asked_at, _packed(interactions)), *newer])

    def add(self, owner: Owner, interactions: Sequence[Interaction]) -> None:
        """Adds interactions that the history store has acknowledged."""
        kept = self._cache.get(owner.hash)
        pieces = [] if kept is None else list(kept.value)
        if len(pieces) >= _MAX_PIECES:
            # as of now: what is read meanwhile may lack some of it
            pieces = [(self._clock(), _packed(_unpacked(pieces)))]
        self._put(owner, [*pieces, (self._clock(), _packed(interactions))])

    def last(self, owner: Owner) -> Aged[Sequence[Interaction]] | None:
        """What is known of somebody, oldest first."""
        kept = self._cache.get(owner.hash)
        return None if kept is None else Aged(_unpacked(kept.value), kept.age_seconds)

    def forget(self, owner_hash: str) -> int:
        """Drops what is known of somebody, and says how many interactions that was."""
        return len(_unpacked(self._cache.forget(owner_hash) or ()))

    def forget_all(self) -> None:
        """Drops everything."""
        self._cache.clear()

    def _put(self, owner: Owner, pieces: Sequence[tuple[float, bytes]]) -> None:
        self._cache.put(owner.hash, tuple(pieces), sum(len(packed) + 64 for _, packed in pieces))


def _packed(interactions: Sequence[Interaction]) -> bytes:
    newest = interactions[-_MAX_KEPT:]
    return orjson.dumps([(entry.item_id, entry.timestamp, entry.type) for entry in newest])


def _unpacked(pieces: Sequence[tuple[float, bytes]]) -> list[Interaction]:
    rows = chain.from_iterable(orjson.loads(packed) for _, packed in pieces)
    # What was reported while a history was read is in both.
    interactions = list(dict.fromkeys(Interaction(*row) for row in rows))
    return sorted(interactions, key=lambda entry: entry.timestamp or 0)[-_MAX_KEPT:]


def _filled(timestamps: Sequence[int | None]) -> np.ndarray:
    """(L,) int64; a missing one is that of the entry before it, or the first one there is, or 0."""
    previous = next((timestamp for timestamp in timestamps if timestamp is not None), 0)
    filled = np.empty(len(timestamps), dtype=np.int64)
    for at, timestamp in enumerate(timestamps):
        previous = previous if timestamp is None else timestamp
        filled[at] = previous
    return filled
