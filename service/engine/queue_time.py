"""How long what waits for the model will take, from what such work took lately.

Refusing is right only if the deadline certainly cannot be met, so where nothing was measured yet the estimate is low:
the time of a larger batch is taken to be that of the largest smaller one that was seen. For the same reason a
measurement counts for less the older it is: what is refused is not measured, and one slow piece of work must not have
its kind refused for good.
"""

import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

# The weight of the newest measurement.
_NEWEST = 0.2
# Kinds of work are few (types of encoders, places in the code that ask); more would be a mistake, and are not kept.
_MAX_KINDS = 64
# An estimate that was not confirmed for so long counts half.
_HALF_LIFE_SECONDS = 10.0
K = TypeVar("K", bound=Hashable)


class QueueTime:
    """Measured times per kind of work, and how much of each kind waits.

    Args:
        max_users: Of one forward pass.
        clock: In seconds.
    """

    def __init__(self, *, max_users: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_users = max_users
        self._batch_seconds: _Estimates[tuple[Hashable, int]] = _Estimates(clock)
        self._work_seconds: _Estimates[Hashable] = _Estimates(clock)
        self._users: Counter[Hashable] = Counter()
        self._works: Counter[Hashable] = Counter()

    def user_came(self, kind: Hashable) -> None:
        """One more history waits."""
        self._users[kind] += 1

    def user_left(self, kind: Hashable) -> None:
        """One fewer."""
        _take(self._users, kind)

    def work_came(self, kind: Hashable) -> None:
        """One more piece of other work waits."""
        self._works[kind] += 1

    def work_left(self, kind: Hashable) -> None:
        """One fewer."""
        _take(self._works, kind)

    def batch_ran(self, kind: Hashable, *, num_users: int, seconds: float) -> None:
        """A forward pass took so long."""
        self._batch_seconds.learn((kind, _size_class(num_users)), seconds)

    def work_ran(self, kind: Hashable, seconds: float) -> None:
        """A piece of other work took so long."""
        self._work_seconds.learn(kind, seconds)

    def batch_seconds(self, kind: Hashable, num_users: int) -> float:
        """Expected of one forward pass; 0 where none was measured."""
        classes = range(_size_class(min(num_users, self._max_users)) + 1)
        return max((self._batch_seconds.seconds_of((kind, size)) for size in classes), default=0.0)

    def work_seconds(self, kind: Hashable) -> float:
        """Expected of one piece of other work; 0 where none was measured."""
        return self._work_seconds.seconds_of(kind)

    def waiting_seconds(self, *, another: Hashable | None = None, another_work: Hashable | None = None) -> float:
        """Until everything that waits is done, and, where given, one more history or piece of work."""
        users = self._users + Counter([another] if another is not None else [])
        works = self._works + Counter([another_work] if another_work is not None else [])
        total = sum(count * self.work_seconds(kind) for kind, count in works.items())
        for kind, count in users.items():
            full, rest = divmod(count, self._max_users)
            total += full * self.batch_seconds(kind, self._max_users)
            total += self.batch_seconds(kind, rest) if rest else 0.0
        return total


class _Estimates(Generic[K]):
    """Running means of times, fading with age."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[K, tuple[float, float]] = {}  # seconds, and when they were measured last

    def seconds_of(self, kind: K) -> float:
        """Expected seconds; 0 where none were measured."""
        if kind not in self._known:
            return 0.0
        seconds, measured_at = self._known[kind]
        return float(seconds * 0.5 ** ((self._clock() - measured_at) / _HALF_LIFE_SECONDS))

    def learn(self, kind: K, seconds: float) -> None:
        """Adds a measurement."""
        if kind in self._known:
            before = self._known[kind][0]
            seconds = before + _NEWEST * (seconds - before)
        elif len(self._known) >= _MAX_KINDS:
            return
        self._known[kind] = seconds, self._clock()


def _size_class(num_users: int) -> int:
    """0 for one user, 1 for two, 2 for three and four, 3 for five to eight, ..."""
    return max(num_users - 1, 0).bit_length()


def _take(counts: "Counter[Hashable]", kind: Hashable) -> None:
    counts[kind] -= 1
    if counts[kind] <= 0:
        del counts[kind]
