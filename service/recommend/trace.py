"""What happened to a request: each step returns a trace beside its result, and the caller joins them.

A trace is never written to. A step that is given up is dropped with its trace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.recommend.ranking.planner import PlanName


@dataclass(frozen=True, slots=True)
class StepNote:
    """What became of one step of the ladder.

    Attributes:
        step: ``history``, ``generate``, ``model``, or a step that ``source`` may name.
        reason: Why it did not answer; ``answered`` for the one that did, ``repeated`` where that was the
            answer before. A few fixed words.
    """

    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How candidates were looked for, once.

    Attributes:
        name: ``over_fetch``, ``selector`` or ``exact_scan``.
        num_admissible: Items that might be returned.
        num_fetched: Items that the index was asked for, or that were compared.
        num_found: Admissible ones among them, at most as many as were wanted.
    """

    name: PlanName
    num_admissible: int
    num_fetched: int
    num_found: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per step; ``encode`` is all that the model did, and ``queue`` all waiting for it."""

    history: float = 0.0
    queue: float = 0.0
    encode: float = 0.0
    search: float = 0.0
    rank: float = 0.0
    total: float = 0.0

    def __add__(self, other: "Timing") -> "Timing":
        return Timing(
            self.history + other.history,
            self.queue + other.queue,
            self.encode + other.encode,
            self.search + other.search,
            self.rank + other.rank,
            self.total + other.total,
        )

    def seconds(self) -> dict[str, float]:
        """By step, the total last."""
        return {
            "history": self.history,
            "queue": self.queue,
            "encode": self.encode,
            "search": self.search,
            "rank": self.rank,
            "total": self.total,
        }

    def milliseconds(self) -> dict[str, float]:
        """By step, the total last; rounded to microseconds."""
        return {step: round(seconds * 1_000, 3) for step, seconds in self.seconds().items()}


_NO_TIME = Timing()


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened in one step, or in several of them in their order; ``a + b`` is a, then b.

    Attributes:
        steps: What became of each step that was due.
        warnings: For the caller; each begins with its code and a colon.
        fallback_reason: The first thing that failed, if any.
        timing: Seconds per step.
        counts: Candidates at each stage, for the decision record.
        filtered: How many items each reason kept from the list; an item that has several reasons counts for each.
        plans: How candidates were looked for.
    """

    steps: Sequence[StepNote] = ()
    warnings: Sequence[str] = ()
    fallback_reason: str | None = None
    timing: Timing = _NO_TIME
    counts: Mapping[str, int] = field(default_factory=dict)
    filtered: Mapping[str, int] = field(default_factory=dict)
    plans: Sequence[Plan] = ()

    def __add__(self, other: "Trace") -> "Trace":
        if other is NOTHING:
            return self
        if self is NOTHING:
            return other
        return Trace(
            (*self.steps, *other.steps),
            (*self.warnings, *other.warnings),
            self.fallback_reason or other.fallback_reason,
            other.timing if self.timing is _NO_TIME else self.timing + other.timing,
            {**self.counts, **other.counts},
            {**self.filtered, **other.filtered},
            (*self.plans, *other.plans),
        )


NOTHING = Trace()


def warning_of(*warnings: str) -> Trace:
    """Of a step that has something to say to the caller."""
    return Trace(warnings=warnings)


def note(step: str, reason: str) -> Trace:
    """Of a step that did not answer, or did; both are of a few fixed words, as the metrics count them."""
    return Trace(steps=(StepNote(step, reason),))


def failure(reason: str, warning: str | None = None) -> Trace:
    """Of something that failed; ``warning`` says what that means for the answer."""
    return Trace(fallback_reason=reason, warnings=() if warning is None else (f"{reason}: {warning}",))
