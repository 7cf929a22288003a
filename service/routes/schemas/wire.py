"""What the bodies of all endpoints have in common: strictness, identifiers and times."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_ID_LENGTH = 256
# 2100-01-01. Beyond it a number is milliseconds, or a mistake.
MAX_TIMESTAMP = 4_102_444_800
Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Timestamp = Annotated[int, Field(ge=0, le=MAX_TIMESTAMP, description="Seconds since 1970")]


class Wire(BaseModel):
    """A body that says nothing but what it should."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
