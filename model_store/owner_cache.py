"""Keeps something of each of the latest users within a bound of memory; safe to use from several threads."""

from collections import OrderedDict
from threading import Lock
from typing import Generic, Protocol, TypeVar

_MAX_FORGOTTEN = 10_000


class Kept(Protocol):
    """What can be kept of a user."""

    @property
    def num_bytes(self) -> int:
        """Memory taken."""
        ...


K = TypeVar("K", bound=Kept)


class OwnerCache(Generic[K]):
    """The most recently used entries, by owner.

    An entry that changes is *taken* to be worked on and *put* back, so that nobody else works on it meanwhile.

    Args:
        max_bytes: Of all entries together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, K] = OrderedDict()
        self._num_bytes = 0
        self._lock = Lock()
        self._clock = 0
        self._forgotten: OrderedDict[str, int] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Of the entries that are kept now."""
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._kept)

    def now(self) -> int:
        """To be handed to :meth:`put`, so that work begun before :meth:`forget` does not bring a user back."""
        with self._lock:
            return self._clock

    def get(self, owner: str) -> K | None:
        """Looks at a user's entry, if there is one and nobody is working on it."""
        with self._lock:
            if owner in self._kept:
                self._kept.move_to_end(owner)
            return self._kept.get(owner)

    def take(self, owner: str) -> K | None:
        """Takes a user's entry out, if there is one."""
        with self._lock:
            return self._pop(owner)

    def put(self, owner: str, state: K, *, since: int) -> None:
        """Keeps an entry, and drops the oldest ones beyond the bound.

        Args:
            owner: Whose; an older entry of the same user is replaced.
            state: May be too large to be kept, and then is not.
            since: From :meth:`now`, before the work began.
        """
        with self._lock:
            self._pop(owner)
            if self._forgotten.get(owner, -1) >= since or state.num_bytes > self._max_bytes:
                return
            self._kept[owner] = state
            self._num_bytes += state.num_bytes
            while self._num_bytes > self._max_bytes:
                self._pop(next(iter(self._kept)))

    def forget(self, owner: str) -> bool:
        """Drops a user's entry, and whatever is being worked on now.

        Returns:
            Whether there was one.
        """
        with self._lock:
            self._forgotten[owner] = self._clock
            self._forgotten.move_to_end(owner)
            self._clock += 1
            if len(self._forgotten) > _MAX_FORGOTTEN:
                self._forgotten.popitem(last=False)
            return self._pop(owner) is not None

    def _pop(self, owner: str) -> K | None:
        state = self._kept.pop(owner, None)
        if state is not None:
            self._num_bytes -= state.num_bytes
        return state
