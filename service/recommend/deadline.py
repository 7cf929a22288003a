"""How a request's time is split over its steps: what is left, and what each step took lately."""

import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from service.errors import DeadlineExceeded

# The steps after the model, which it has to leave time for: searching, and, if that fails, what is popular.
SEARCH, POPULAR = "search", "popular"

# Measurements of one step that count.
_WINDOW = 128
# Older ones do not, so that a step that was skipped for being slow is tried again.
_MAX_AGE_SECONDS = 30.0
# Half of the time a step takes longer than is expected of it: trying it costs nothing, as the time for the next step
# is kept apart. What is kept apart must suffice nearly always.
_EXPECTED = 0.5
_RESERVED = 0.95
# A few slow answers must not take the model's time from everybody.
_MOST_RESERVED = 0.5
# Steps are few (a handful per kind of model); more would be a mistake, and are not measured.
_MAX_STEPS = 256
# Kept apart for a step of which nothing is known.
_UNKNOWN_SHARE = 0.1
_UNKNOWN_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a request's time is over.

    Attributes:
        seconds: For the whole request.
        ends_at: ``time.monotonic()`` then.
    """

    seconds: float
    ends_at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """In so many seconds from now."""
        return cls(seconds, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds that are left; negative once it is over."""
        return self.ends_at - time.monotonic()

    def exceeded(self) -> DeadlineExceeded:
        """What a request fails with once it is over."""
        return DeadlineExceeded(f"no answer within {self.seconds * 1_000:.0f} ms")


class StepTimes:
    """What steps took lately. For the event loop.

    Args:
        clock: In seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: dict[Hashable, _Recent] = {}

    def took(self, step: Hashable, seconds: float) -> None:
        """A step took so long."""
        recent = self._steps.get(step)
        if recent is None:
            if len(self._steps) >= _MAX_STEPS:
                return
            recent = self._steps[step] = _Recent()
        recent.add(self._clock(), seconds)

    def gave_up(self, step: Hashable, seconds: float) -> None:
        """A step was not done after so long: who has just as much time must not try it again and again."""
        self.took(step, max(2 * seconds, self.expected(step)))

    def expected(self, step: Hashable) -> float:
        """Seconds that a step takes half of the time; 0 if it was not measured lately."""
        return self._quantile(step, _EXPECTED) or 0.0

    def reserve(self, deadline: Deadline, *steps: Hashable) -> float:
        """Seconds to keep apart for steps that come later: at most half of what is left."""
        least = min(_UNKNOWN_SHARE * deadline.seconds, _UNKNOWN_SECONDS)
        wanted = sum(max(self._quantile(step, _RESERVED) or 0.0, least) for step in steps)
        return max(min(wanted, _MOST_RESERVED * deadline.left), 0.0)

    def _quantile(self, step: Hashable, share: float) -> float | None:
        recent = self._steps.get(step)
        return None if recent is None else recent.quantile(share, self._clock())


class _Recent:
    """The newest measurements, in the order of time and in the order of size."""

    def __init__(self) -> None:
        self._by_time: deque[tuple[float, float]] = deque()
        self._by_size: list[float] = []

    def add(self, now: float, seconds: float) -> None:
        self._by_time.append((now, seconds))
        insort(self._by_size, seconds)
        if len(self._by_time) > _WINDOW:
            self._drop()

    def quantile(self, share: float, now: float) -> float | None:
        while self._by_time and self._by_time[0][0] < now - _MAX_AGE_SECONDS:
            self._drop()
        return self._by_size[int(share * (len(self._by_size) - 1))] if self._by_size else None

    def _drop(self) -> None:
        _, seconds = self._by_time.popleft()
        del self._by_size[bisect_left(self._by_size, seconds)]
