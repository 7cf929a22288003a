"""Keeps the states of the latest users within a bound of memory; safe to use from several threads."""

from collections import OrderedDict
from dataclasses import replace
from threading import Lock

from model_store.encoding import CacheCounts
from model_store.hatllm.user_state import UserState

_MAX_FORGOTTEN = 10_000


class StateCache:
    """The most recently used states, by owner.

    A state is *taken* to be worked on and *put* back, so that nobody else works on it meanwhile.

    Args:
        max_bytes: Of all states together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._states: OrderedDict[str, UserState] = OrderedDict()
        self._num_bytes = 0
        self._lock = Lock()
        self._clock = 0
        self._forgotten: OrderedDict[str, int] = OrderedDict()
        self._all_forgotten = -1
        self._counts = CacheCounts()

    @property
    def counts(self) -> CacheCounts:
        """A copy of the counts of now."""
        with self._lock:
            return replace(self._counts)

    @property
    def num_bytes(self) -> int:
        """Of the states that are kept now."""
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._states)

    def now(self) -> int:
        """To be handed to :meth:`put`, so that work begun before :meth:`forget` does not bring a user back."""
        with self._lock:
            return self._clock

    def take(self, owner: str) -> UserState | None:
        """Takes a user's state out, if there is one."""
        with self._lock:
            state = self._pop(owner)
            self._counts.hits += state is not None
            self._counts.misses += state is None
            return state

    def put(self, owner: str, state: UserState, *, since: int) -> None:
        """Keeps a state, and drops the oldest ones beyond the bound.

        Args:
            owner: Whose; an older state of the same user is replaced.
            state: May be too large to be kept, and then is not.
            since: From :meth:`now`, before the work began.
        """
        with self._lock:
            self._pop(owner)
            forgotten = max(self._forgotten.get(owner, -1), self._all_forgotten)
            if forgotten >= since:
                return
            if state.num_bytes > self._max_bytes:
                self._counts.evictions += 1
                return
            self._states[owner] = state
            self._num_bytes += state.num_bytes
            while self._num_bytes > self._max_bytes:
                self._pop(next(iter(self._states)))
                self._counts.evictions += 1

    def forget(self, owner: str) -> bool:
        """Drops a user's state, and whatever is being worked on now.

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

    def forget_all(self) -> None:
        """Drops every state, and whatever is being worked on now."""
        with self._lock:
            self._all_forgotten = self._clock
            self._clock += 1
            self._forgotten.clear()
            self._states.clear()
            self._num_bytes = 0

    def _pop(self, owner: str) -> UserState | None:
        state = self._states.pop(owner, None)
        if state is not None:
            self._num_bytes -= state.num_bytes
        return state
