"""Bodies of ``POST /events``."""

import math
import time
from typing import Annotated, Any, Self

import orjson
from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from model_store.people.appending import DEFAULT_EVENT_TYPE
from service.routes.schemas.wire import MAX_ID_LENGTH, Identifier, Timestamp, Wire

MAX_EVENTS = 1_000
MAX_PROPERTIES_BYTES = 4_096
MAX_CLOCK_SKEW_SECONDS = 86_400


def _is_storable(properties: dict[str, Any]) -> dict[str, Any]:
    try:
        size_bytes = len(orjson.dumps(properties))
    except orjson.JSONEncodeError as error:
        raise ValueError(f"cannot be stored as JSON: {error}") from error
    if size_bytes > MAX_PROPERTIES_BYTES:
        raise ValueError(f"{size_bytes} bytes of JSON, expected at most {MAX_PROPERTIES_BYTES}")
    return properties


def _is_not_in_the_future(timestamp: int) -> int:
    latest = math.floor(time.time()) + MAX_CLOCK_SKEW_SECONDS
    if timestamp > latest:
        raise PydanticCustomError("moment_range", "this is more than a day in the future; expected seconds since 1970")
    return timestamp


class EventIn(Wire):
    """One reported interaction."""

    event_id: Annotated[
        Identifier | None,
        Field(
            description="The same one again is a duplicate; default: made from user, item, type and timestamp, so send "
            "one where the timestamp is left out: only then is a retry recognised"
        ),
    ] = None
    user_id: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_ID_LENGTH,
            default_factory=str,
            description="Whose history it goes to; either this or session_id",
        ),
    ]
    session_id: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_ID_LENGTH,
            default_factory=str,
            description="Of a visitor who is not known yet: a history of its own, until it is merged into a user's",
        ),
    ]
    item_id: Identifier
    type: Annotated[str, Field(min_length=1, max_length=64)] = DEFAULT_EVENT_TYPE
    timestamp: Annotated[
        Timestamp,
        AfterValidator(_is_not_in_the_future),
        Field(default_factory=lambda: int(time.time()), description="When it happened; now where it is left out"),
    ]
    recommendation_id: Annotated[
        Identifier | None, Field(description="Of the answer that led to it; kept with the event, and counted")
    ] = None
    properties: Annotated[
        dict[str, Any], AfterValidator(_is_storable), Field(default_factory=dict, json_schema_extra={"default": {}})
    ]

    @model_validator(mode="after")
    def _is_somebodys(self) -> Self:
        if not (self.user_id or self.session_id):
            raise PydanticCustomError("no_owner", "expected user_id or session_id")
        if self.user_id and self.session_id:
            raise PydanticCustomError("not_both", "expected user_id or session_id, not both; a session can be merged")
        return self


# Each event is checked by itself, so that a bad one rejects itself alone; the documentation shows what is
# expected.
_AnyEvent = Annotated[Any, WithJsonSchema(EventIn.model_json_schema())]


class EventsRequest(Wire):
    """The body of ``POST /events``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {"event_id": "e-1", "user_id": "customer-95", "item_id": "item-00003", "type": "click"},
                        {"session_id": "s-7", "item_id": "item-00001", "timestamp": "2026-11-30T18:00:00Z"},
                    ]
                }
            ]
        }
    )

    events: Annotated[list[_AnyEvent], Field(min_length=1, max_length=MAX_EVENTS)]


class RejectedEvent(Wire):
    """Why one event was not taken."""

    index: Annotated[int, Field(description="Its place in the request, from 0")]
    event_id: str | None
    code: str
    detail: str


class EventsAnswer(Wire):
    """The answer of ``POST /events``; what was accepted is durable, and the next answer counts it in."""

    accepted: int
    duplicates: int
    unknown_items: Annotated[
        int,
        Field(description="Accepted events of items that no live catalogue has (yet)"),
    ]
    rejected: list[RejectedEvent]
    event_token: str | None
