"""Traces are joined in the order of the steps, and joining them changes none of them."""

from hypothesis import given
from hypothesis import strategies as st

from service.recommend.trace import NOTHING, Plan, StepNote, Timing, Trace, failure, note, warning_of

_WORDS = st.sampled_from(["a", "b", "c"])
_COUNTS = st.dictionaries(_WORDS, st.integers(0, 9), max_size=2)
# whole seconds: sums of them are exact
_SECONDS = st.integers(0, 9).map(float)
_TRACES = st.builds(
    Trace,
    steps=st.lists(st.builds(StepNote, _WORDS, _WORDS), max_size=2).map(tuple),
    warnings=st.lists(_WORDS, max_size=2).map(tuple),
    fallback_reason=st.none() | _WORDS,
    timing=st.builds(Timing, *[_SECONDS] * 6),
    counts=_COUNTS,
    filtered=_COUNTS,
    plans=st.lists(st.builds(Plan, st.just("selector"), *[st.integers(0, 9)] * 3), max_size=2).map(tuple),
)


@given(first=_TRACES, second=_TRACES, third=_TRACES)
def test_traces_join_in_any_grouping_and_keep_their_order(first: Trace, second: Trace, third: Trace) -> None:
    joined = first + second + third
    assert joined == first + (second + third)
    for name in ("steps", "warnings", "plans"):
        assert getattr(joined, name) == (*getattr(first, name), *getattr(second, name), *getattr(third, name))
    reasons = [one.fallback_reason for one in (first, second, third) if one.fallback_reason is not None]
    assert joined.fallback_reason == (reasons[0] if reasons else None)
    seconds = zip(*(one.timing.seconds().values() for one in (first, second, third)), strict=True)
    assert list(joined.timing.seconds().values()) == [sum(one) for one in seconds]
    assert joined.counts == {**first.counts, **second.counts, **third.counts}


@given(trace=_TRACES)
def test_nothing_that_happened_changes_no_trace(trace: Trace) -> None:
    assert trace + NOTHING == NOTHING + trace == trace


def test_a_failure_has_its_reason_in_its_warning_and_the_first_one_counts() -> None:
    trace = (
        note("model", "failed") + failure("model_failed", "it broke") + failure("found_nothing") + warning_of("x: y")
    )
    assert trace.steps == (StepNote("model", "failed"),)
    assert trace.warnings == ("model_failed: it broke", "x: y")
    assert trace.fallback_reason == "model_failed"
