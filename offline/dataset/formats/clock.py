"""Reads timestamps, and refuses those that are on another clock than the source says."""

import datetime
import math
import time
from typing import Any

from model_store.people.moments import END_OF_TIME, FIRST_PLAUSIBLE_SECOND, seconds_of_iso
from offline.dataset.formats.rows import BadRow, FileTimeUnit, shown

EARLIEST = 631_152_000  # 1990-01-01 in seconds
_DAY = 86_400
_TICKS_PER_SECOND: dict[FileTimeUnit, int] = {"milliseconds": 1_000, "microseconds": 1_000_000}


class Clock:
    """The clock of one source.

    Args:
        unit: Of the timestamps; with ``auto`` the first one says whether all are seconds or ranks.
        any_time: Take every moment from 1970 to 2100, instead of those from 1990 to tomorrow.
    """

    def __init__(self, unit: FileTimeUnit = "auto", *, any_time: bool = False) -> None:
        self._unit = unit
        self._ticks = _TICKS_PER_SECOND.get(unit, 1)
        self._earliest, self._latest = 0, END_OF_TIME - 1
        self._is_open = unit == "auto" and not any_time
        if unit not in ("auto", "rank") and not any_time:
            self._expect_moments()

    def read(self, value: Any) -> int:
        """Seconds since 1970 (UTC), or a rank.

        Args:
            value: A number, the text of one, or a date and time in ISO 8601 (UTC unless it says otherwise).

        Raises:
            BadRow: It is none of these, or implausible.
        """
        try:
            # int() of a text first: exact, and by far the most frequent case
            seconds = (math.floor(value) if isinstance(value, float) else int(value)) // self._ticks
        except (TypeError, ValueError, OverflowError):
            seconds = self._seconds_of_text(value)
        if self._is_open:
            self._settle(value, seconds)
        if self._earliest <= seconds <= self._latest and value is not True and value is not False:
            return seconds
        raise BadRow(self._reason(value, seconds))

    def _expect_moments(self) -> None:
        self._earliest, self._latest = EARLIEST, int(time.time()) + _DAY

    def _settle(self, value: Any, seconds: int) -> None:
        if not 0 <= seconds < END_OF_TIME:
            return
        if is_compact_date(seconds):
            raise BadRow(f"timestamp {shown(value)} is no number of seconds{self._hint(seconds)}")
        self._is_open = False
        if seconds < FIRST_PLAUSIBLE_SECOND:
            self._unit, self._latest = "rank", FIRST_PLAUSIBLE_SECOND - 1
        else:
            self._unit = "seconds"
            self._expect_moments()

    def _seconds_of_text(self, value: Any) -> int:
        if not isinstance(value, str):
            raise BadRow(f"timestamp {shown(value)} is not a number")
        try:
            return math.floor(float(value)) // self._ticks
        except (ValueError, OverflowError):
            pass
        try:
            return seconds_of_iso(value)
        except ValueError as error:
            has_date = value.strip()[:1].isdigit() and any(mark in value for mark in "-:/.")
            hint = ", nor a date and time such as 2021-01-20T10:00:00Z" if has_date else ""
            raise BadRow(f"timestamp {shown(value)} is not a number{hint}") from error

    def _reason(self, value: Any, seconds: int) -> str:
        if isinstance(value, bool):
            return f"timestamp {shown(value)} is not a number"
        if not 0 <= seconds < END_OF_TIME:
            return f"timestamp {shown(value)} is not between the years 1970 and 2100{self._hint(seconds)}"
        if self._unit == "rank":
            return (
                f"timestamp {shown(value)} is {_date(seconds)}, where the others are ranks, such as 0, 1, 2: expected "
                "one kind"
            )
        return (
            f"timestamp {shown(value)} is {_date(seconds)}, expected {_date(self._earliest)} to "
            f"{_date(self._latest)}{self._hint(seconds)}"
        )

    def _hint(self, seconds: int) -> str:
        """What the timestamp could be; the likeliest first."""
        ticks = seconds * self._ticks
        if is_compact_date(ticks):
            return f" (a date? write {_iso(str(ticks))}, or seconds since 1970)"
        if is_compact_date(ticks // 1_000_000):
            return f" (a date and time? write it as {_iso(str(ticks)[:8])}T00:00:00, or as seconds since 1970)"
        # the newest clock that makes a moment of the number, but the one that was tried
        for unit, per_second in (("seconds", 1), ("milliseconds", 1_000), ("microseconds", 1_000_000)):
            if per_second != self._ticks and FIRST_PLAUSIBLE_SECOND <= ticks // per_second < END_OF_TIME:
                return f" ({unit}? use --time-unit {unit})"
        if 0 <= ticks < FIRST_PLAUSIBLE_SECOND:
            return " (ranks? use --time-unit rank; if they are right, use --any-time)"
        return " (if they are right, use --any-time)" if 0 <= seconds < END_OF_TIME else ""


def is_compact_date(number: int) -> bool:
    """Whether a number is a date from 1970 to 2099 written as year, month, day without separators."""
    if not 19_700_101 <= number <= 20_991_231:
        return False
    try:
        datetime.date(number // 10_000, number // 100 % 100, number % 100)
    except ValueError:
        return False
    return True


def _iso(compact: str) -> str:
    return f"{compact[:4]}-{compact[4:6]}-{compact[6:8]}"


def _date(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
