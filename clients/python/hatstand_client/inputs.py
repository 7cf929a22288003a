"""What a caller hands in: events, and the options of a recommendation."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from typing_extensions import TypedDict


class HistoryItem(TypedDict, total=False):
    """One interaction of a history that comes with the request; ``timestamp`` is in seconds since 1970, or ISO 8601."""

    item_id: str
    timestamp: int | str | None
    type: str | None


class SegmentChoice(TypedDict, total=False):
    """Whose popular items are shown where no model answers: an attribute, and one of its values."""

    attribute: str | None
    value: str | int | bool | None


class RecommendOptions(TypedDict, total=False):
    """The options of a recommendation; docs/api.md and docs/lists.md say what each does. None is the same as nothing.

    One of ``user_id``, ``session_id`` and ``history`` (oldest first) is needed.
    """

    user_id: str | None
    session_id: str | None
    k: int
    history: Sequence[str | HistoryItem] | None
    filter: Mapping[str, Any]
    exclude_item_ids: Sequence[str]
    exclude_seen: bool
    seen_types: Sequence[str] | None
    seen_max_age_seconds: int | None
    max_per: Mapping[str, int]
    scenario: str | None
    paginate: bool
    cursor: str | None
    diversity: float
    explain: bool
    return_fields: Sequence[str] | None
    model: str | None
    mode: Literal["retrieve", "generate"] | None
    min_event_token: str | None
    segment: SegmentChoice | None
    timeout_ms: int | None


class RankOptions(TypedDict, total=False):
    """The options of a ranking of the caller's own items; docs/api.md says what each does. None is the same as nothing.

    One of ``user_id``, ``session_id`` and ``history`` (oldest first) is needed.
    """

    user_id: str | None
    session_id: str | None
    k: int | None
    history: Sequence[str | HistoryItem] | None
    filter: Mapping[str, Any]
    exclude_seen: bool
    seen_types: Sequence[str] | None
    seen_max_age_seconds: int | None
    max_per: Mapping[str, int]
    scenario: str | None
    diversity: float
    explain: bool
    return_fields: Sequence[str] | None
    model: str | None
    min_event_token: str | None
    segment: SegmentChoice | None
    timeout_ms: int | None


def _as_json(properties: dict[str, JsonValue]) -> dict[str, JsonValue]:
    # Half a surrogate pair is a str, and no UTF-8: it would fail with the whole batch.
    json.dumps(properties, ensure_ascii=False, allow_nan=False).encode()
    return properties


class Event(BaseModel):
    """One interaction of a user or of a session; give one of ``user_id`` and ``session_id``.

    Every event has an id of its own, so that the same event can be sent again without being counted twice. Without a
    ``timestamp`` (seconds since 1970) the event happens now.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    item_id: str
    user_id: str | None = None
    session_id: str | None = None
    type: str = "click"
    timestamp: int = Field(default_factory=lambda: int(time.time()))
    event_id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    recommendation_id: str | None = None
    properties: Annotated[dict[str, JsonValue], AfterValidator(_as_json)] = Field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The event as the service reads it: without the fields that are None."""
        return {name: value for name, value in self.model_dump().items() if value is not None}
