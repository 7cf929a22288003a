"""What the bodies of all endpoints have in common: strictness, identifiers, times, and how a mistake is described."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_ID_LENGTH = 256
# 2100-01-01. Beyond it a number is milliseconds, or a mistake.
MAX_TIMESTAMP = 4_102_444_800
_READABLE_LENGTH = 64
Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Timestamp = Annotated[int, Field(ge=0, le=MAX_TIMESTAMP, description="Seconds since 1970")]


class Wire(BaseModel):
    """A body that says nothing but what it should."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def describe_problem(entry: Mapping[str, Any]) -> str:
    """What was expected of a value, and the value itself where it is short enough to read.

    Args:
        entry: One of pydantic's ``errors()``.
    """
    value = entry.get("input")
    is_readable = (
        isinstance(value, str | int | float) and len(str(value)) <= _READABLE_LENGTH and str(value).isprintable()
    )
    if entry["type"] == "missing" or not is_readable:
        return str(entry["msg"])
    return f"{entry['msg']}, got {value!r}"
