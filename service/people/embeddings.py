"""What this process remembers of users: their last good embeddings, bounded in memory and age, and erasable.

An embedding has two uses. Made of the very history that is asked for now, it is what the model would say, and saves
the forward pass. Made of an older one, it is what the ladder serves when the model cannot answer.
"""

import hashlib
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from cachetools import TTLCache

from model_store.people.histories import History
from model_store.people.owner import Owner

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# What Python's own objects take per entry, about.
_ENTRY_BYTES = 512
# Of one user: two kinds of models, each with the bundle before it.
_MAX_BUNDLES = 4


@dataclass(frozen=True, slots=True)
class Aged(Generic[V]):
    """A kept value.

    Attributes:
        value: What was kept.
        age_seconds: Since when.
    """

    value: V
    age_seconds: float


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    num_bytes: int
    kept_at: float


class AgedCache(Generic[K, V]):
    """Keeps the values that were used last, within a size and an age. For one thread.

    Args:
        max_bytes: Of all values together; 0 keeps nothing.
        max_age_seconds: Older ones are dropped, whether anybody asks for them or not.
        clock: In seconds.
    """

    def __init__(self, *, max_bytes: int, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: TTLCache[K, _Entry[V]] = TTLCache(
            max_bytes, max_age_seconds, timer=clock, getsizeof=lambda entry: entry.num_bytes
        )

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """What is kept takes, about."""
        self._entries.expire()
        return int(self._entries.currsize)

    def put(self, key: K, value: V, num_bytes: int) -> None:
        """Keeps a value in place of the one before; those that were not used for longest make room."""
        entry = _Entry(value, num_bytes + _ENTRY_BYTES, self._clock())
        # else the one before would count while room is made
        self._entries.pop(key, None)
        if entry.num_bytes <= self._entries.maxsize:
            self._entries[key] = entry

    def get(self, key: K) -> Aged[V] | None:
        """What was kept last, unless it is too old or had to make room."""
        entry = self._entries.get(key)
        return None if entry is None else Aged(entry.value, self._clock() - entry.kept_at)

    def forget(self, key: K) -> V | None:
        """Drops a value and returns it."""
        entry = self._entries.pop(key, None)
        return None if entry is None else entry.value

    def clear(self) -> None:
        """Drops everything."""
        self._entries.clear()


@dataclass(frozen=True, slots=True)
class _Embedding:
    vector: np.ndarray
    fingerprint: bytes
    made_at: float


class LastEmbeddings:
    """The last good embedding of each user and bundle. For the event loop.

    Args:
        max_bytes: Of all together; 0 keeps nothing.
        max_age_seconds: Since the model made it, or would have made the same.
        clock: In seconds.
    """

    def __init__(self, *, max_bytes: int, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._cache: AgedCache[str, dict[str, _Embedding]] = AgedCache(
            max_bytes=max_bytes, max_age_seconds=max_age_seconds, clock=clock
        )

    @property
    def num_bytes(self) -> int:
        """What is kept takes, about."""
        return self._cache.num_bytes

    def keep(self, owner: Owner, bundle_id: str, embedding: np.ndarray, fingerprint: bytes) -> None:
        """Keeps an embedding in place of the one before.

        Args:
            owner: Whose.
            bundle_id: Whose model made it.
            embedding: (D,) float32, finite.
            fingerprint: Of the history that it was made of.
        """
        self._store(owner, bundle_id, _Embedding(np.array(embedding), fingerprint, self._clock()))

    def made_of(self, owner: Owner, bundle_id: str, fingerprint: bytes) -> np.ndarray | None:
        """(D,) float32, the embedding of this very history; do not write to it. It counts as made now."""
        found = self._find(owner, bundle_id)
        if found is None or found.fingerprint != fingerprint:
            return None
        self._store(owner, bundle_id, replace(found, made_at=self._clock()))
        return found.vector

    def last(self, owner: Owner, bundle_id: str) -> Aged[np.ndarray] | None:
        """(D,) float32, the last embedding, of whatever history; do not write to it."""
        found = self._find(owner, bundle_id)
        return None if found is None else Aged(found.vector, self._clock() - found.made_at)

    def forget(self, owner_hash: str) -> int:
        """Drops all embeddings of somebody, and says how many."""
        return len(self._cache.forget(owner_hash) or ())

    def forget_all(self) -> None:
        """Drops everything."""
        self._cache.clear()

    def _store(self, owner: Owner, bundle_id: str, embedding: _Embedding) -> None:
        kept = self._cache.get(owner.hash)
        by_bundle = {} if kept is None else dict(kept.value)
        by_bundle.pop(bundle_id, None)
        by_bundle[bundle_id] = embedding
        for oldest in list(by_bundle)[:-_MAX_BUNDLES]:
            del by_bundle[oldest]
        num_bytes = sum(one.vector.nbytes + _ENTRY_BYTES for one in by_bundle.values())
        self._cache.put(owner.hash, by_bundle, num_bytes)

    def _find(self, owner: Owner, bundle_id: str) -> _Embedding | None:
        kept = self._cache.get(owner.hash)
        found = None if kept is None else kept.value.get(bundle_id)
        if found is None or self._clock() - found.made_at > self._max_age_seconds:
            return None
        return found


def fingerprint(history: History) -> bytes:
    """Equal for equal items and timestamps in the same order, and for nothing else that will ever be met."""
    digest = hashlib.blake2b(history.item_indices.astype("<i8").tobytes(), digest_size=16)
    digest.update(history.timestamps.astype("<i8").tobytes())
    return digest.digest()
