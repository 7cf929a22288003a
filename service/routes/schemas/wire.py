"""What the bodies of all endpoints have in common: strictness, identifiers and times."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from model_store.people.moments import END_OF_TIME, finer_clock, seconds_of_iso

MAX_ID_LENGTH = 256
Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]


def _moment(value: Any) -> int:
    """Seconds since 1970."""
    if type(value) is int:
        return _plausible(value)
    try:
        seconds = seconds_of_iso(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        seconds = None
    if seconds is None:
        raise PydanticCustomError(
            "moment_type", "expected seconds since 1970, or ISO 8601 such as 2026-11-30T18:00:00Z"
        )
    return _plausible(seconds)


def _plausible(seconds: int) -> int:
    if 0 <= seconds <= END_OF_TIME:
        return seconds
    finer = finer_clock(seconds)
    if finer is not None:
        hint = {"unit": finer[0], "seconds": finer[1]}
        raise PydanticCustomError(
            "moment_range", "these are {unit}, it seems; expected seconds since 1970: {seconds}", hint
        )
    raise PydanticCustomError("moment_range", "expected seconds since 1970, from 0 to 4102444800 (the year 2100)")


Timestamp = Annotated[
    int,
    PlainValidator(_moment),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": END_OF_TIME},
                {"type": "string", "format": "date-time"},
            ],
            "description": "Seconds since 1970, or ISO 8601 (UTC unless it has an offset)",
        }
    ),
]


class Wire(BaseModel):
    """A body that says nothing but what it should."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
