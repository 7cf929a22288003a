"""Moments as callers write them: seconds since 1970, or ISO 8601; and what a number on another clock may be."""

import datetime
import math

# 2100-01-01 in seconds: beyond it a number is on another clock, or a mistake.
END_OF_TIME = 4_102_444_800
# Seconds since 1970 of any log that we could meet are above this (1973-03-03).
FIRST_PLAUSIBLE_SECOND = 100_000_000

_PER_SECOND = {"milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}


def seconds_of_iso(text: str) -> int:
    """Seconds since 1970 of a date, or a date and time, in ISO 8601; UTC unless the text has an offset.

    Raises:
        ValueError: The text is none of these.
    """
    moment = datetime.datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return math.floor(moment.timestamp())


def finer_clock(number: int) -> tuple[str, int] | None:
    """The clock that a number beyond the year 2100 is on, and its seconds since 1970; None where no clock fits."""
    for unit, per_second in _PER_SECOND.items():
        seconds = number // per_second
        if FIRST_PLAUSIBLE_SECOND <= seconds < END_OF_TIME:
            return unit, seconds
    return None
