from typing import Any

import pytest

from offline.dataset.formats.clock import Clock
from offline.dataset.formats.rows import BadRow, FileTimeUnit


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("auto", "1700000000", 1_700_000_000),
        ("auto", 1700000000.9, 1_700_000_000),
        ("auto", "1.7e9", 1_700_000_000),
        ("auto", 0, 0),
        ("rank", "20210120", 20_210_120),
        ("milliseconds", "1700000000999", 1_700_000_000),
        ("microseconds", 1700000000999999, 1_700_000_000),
        ("auto", "2021-01-20", 1_611_100_800),
        ("seconds", "2021-01-20T01:00:00Z", 1_611_104_400),
        ("milliseconds", "2021-01-20T01:00:00+01:00", 1_611_100_800),
        ("seconds", " 2021-01-20 00:00:00.75 ", 1_611_100_800),
    ],
)
def test_moments_and_ranks_are_read(unit: FileTimeUnit, value: Any, expected: int) -> None:
    assert Clock(unit).read(value) == expected


@pytest.mark.parametrize(
    ("unit", "value", "reason"),
    [
        (
            "milliseconds",
            "1700000000",
            r"is 1970-01-20, expected 1990-01-01 to .* \(seconds\? use --time-unit seconds\)",
        ),
        ("seconds", "1700000000000", r"\(milliseconds\? use --time-unit milliseconds\)"),
        ("auto", "1700000000000000", r"\(microseconds\? use --time-unit microseconds\)"),
        ("microseconds", "1700000000000", r"\(milliseconds\? use --time-unit milliseconds\)"),
        ("auto", "20210120", r"is no number of seconds \(a date\? write 2021-01-20, or seconds since 1970\)"),
        ("seconds", 20210120, r"is 1970-08-22, .* \(a date\? write 2021-01-20"),
        ("auto", "20210120093000", r"\(a date and time\? write it as 2021-01-20T00:00:00"),
        ("seconds", "7", r"is 1970-01-01, .* \(ranks\? use --time-unit rank"),
        ("seconds", "300000000", r"is 1979-07-05, expected .* \(if they are right, use --any-time\)"),
        # the year 2096: a parameter must be the same in every process that collects tests
        ("auto", "4000000000", "if they are right, use --any-time"),
        ("auto", "20/01/2021", "is not a number, nor a date and time such as 2021-01-20T10:00:00Z"),
        ("auto", True, "timestamp True is not a number"),
        ("auto", None, "timestamp None is not a number"),
    ],
)
def test_timestamps_of_another_clock_are_refused_with_a_hint(unit: FileTimeUnit, value: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        Clock(unit).read(value)


def test_the_first_timestamp_says_whether_all_are_ranks_or_moments() -> None:
    ranks, moments = Clock(), Clock()
    ranks.read(0)
    moments.read(1_700_000_000)

    with pytest.raises(BadRow, match="is 2023-11-14, where the others are ranks, such as 0, 1, 2"):
        ranks.read(1_700_000_000)
    with pytest.raises(BadRow, match="is 1970-01-01"):
        moments.read(0)
    with pytest.raises(BadRow, match="is no number of seconds"):
        Clock().read("20210120")
    assert ranks.read("20210120") == 20_210_120  # a log of so many rows has such a rank


@pytest.mark.parametrize("value", [0, 20210120, 300_000_000, 4_000_000_000])
def test_any_time_is_taken_when_asked(value: int) -> None:
    assert Clock("seconds", any_time=True).read(value) == value
    assert Clock("auto", any_time=True).read(value) == value
