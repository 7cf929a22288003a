"""How time is split: what is expected of a step, what is kept apart for the next one, and how both are forgotten."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.recommend.deadline import Deadline, StepTimes


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=100, deadline=None)
@given(seconds=st.lists(st.floats(0.0001, 10), min_size=1, max_size=300))
def test_a_step_is_expected_to_take_the_median_of_the_latest_times(seconds: list[float]) -> None:
    times = StepTimes(clock=Clock())
    for one in seconds:
        times.took("model", one)
    latest = sorted(seconds[-128:])
    assert times.expected("model") == latest[(len(latest) - 1) // 2]
    far = Deadline.after(10_000)
    assert times.reserve(far, "model") >= np.quantile(latest, 0.95, method="lower")
    assert times.reserve(far, "model") <= max(latest[-1], 0.02)


def test_nothing_is_expected_of_an_unknown_step_and_little_kept_apart_for_it() -> None:
    times = StepTimes()
    assert times.expected("search") == 0.0
    assert times.reserve(Deadline.after(10), "search") == 0.02
    assert times.reserve(Deadline.after(0.05), "search") == pytest.approx(0.005)


def test_at_most_half_of_what_is_left_is_kept_apart() -> None:
    times = StepTimes()
    for _ in range(10):
        times.took("search", 5.0)
    assert times.reserve(Deadline.after(1.0), "search") == pytest.approx(0.5, abs=0.01)
    assert times.reserve(Deadline.after(-1.0), "search") == 0.0


def test_a_step_that_did_not_come_is_not_tried_again_at_once_but_is_after_a_while() -> None:
    clock = Clock()
    times = StepTimes(clock=clock)
    times.gave_up("model", 0.1)
    assert times.expected("model") == pytest.approx(0.2)
    clock.now = 29.0
    assert times.expected("model") > 0.1
    clock.now = 31.0
    assert times.expected("model") == 0.0


def test_a_step_that_gives_up_early_is_not_taken_for_a_quick_one() -> None:
    times = StepTimes()
    times.took("model", 1.0)
    for _ in range(20):
        times.gave_up("model", 0.01)
    assert times.expected("model") == 1.0


def test_steps_are_measured_apart_and_are_not_endless() -> None:
    times = StepTimes()
    for number in range(1_000):
        times.took(("model", number), 1.0)
    assert times.expected(("model", 0)) == 1.0
    assert times.expected(("model", 999)) == 0.0


def test_a_deadline_passes() -> None:
    deadline = Deadline.after(0.02)
    assert 0 < deadline.left <= 0.02
    time.sleep(0.03)
    assert deadline.left < 0
