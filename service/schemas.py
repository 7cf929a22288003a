"""What goes over the wire; strict, so that ``"k": "10"`` and unknown fields are mistakes and not guesses."""

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

MAX_K = 500
MAX_EVENTS = 1_000
MAX_HISTORY = 10_000
MAX_EXCLUDED = 10_000
MAX_FILTER_VALUES = 1_000
MAX_ID_LENGTH = 256
MAX_PROPERTIES_BYTES = 4_096
# 2100-01-01. Beyond it a number is milliseconds, or a mistake.
MAX_TIMESTAMP = 4_102_444_800
MAX_CLOCK_SKEW_SECONDS = 86_400
_READABLE_LENGTH = 64


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Timestamp = Annotated[int, Field(ge=0, le=MAX_TIMESTAMP, description="Seconds since 1970")]
Mode = Literal["retrieve", "generate"]
FilterValue = str | int | float | bool


class HistoryItem(_Wire):
    """One interaction of an inline history."""

    item_id: Identifier
    timestamp: Timestamp | None = None


class FilterCondition(_Wire):
    """What an attribute must be; all must hold. An item without a value fails all but the negative ones."""

    any_of: Annotated[list[FilterValue] | None, Field(min_length=1, max_length=MAX_FILTER_VALUES)] = None
    none_of: Annotated[list[FilterValue] | None, Field(min_length=1, max_length=MAX_FILTER_VALUES)] = None
    gte: int | float | str | None = None
    lte: int | float | str | None = None
    exists: bool | None = None

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if all(value is None for value in (self.any_of, self.none_of, self.gte, self.lte, self.exists)):
            raise ValueError("expected at least one of any_of, none_of, gte, lte, exists")
        return self


class RecommendRequest(_Wire):
    """The body of ``POST /recommend``."""

    user_id: Annotated[
        Identifier | None, Field(description="Whose stored history is read; also decides the arm of an experiment")
    ] = None
    k: Annotated[int, Field(ge=1, le=MAX_K, description="How many items are wanted")] = 10
    history: Annotated[
        list[Identifier | HistoryItem] | None,
        Field(max_length=MAX_HISTORY, description="Oldest first; used instead of the stored history"),
    ] = None
    filter: Annotated[
        dict[str, FilterCondition], Field(max_length=32, description="Conditions per attribute; all must hold")
    ] = {}
    exclude_item_ids: Annotated[list[Identifier], Field(max_length=MAX_EXCLUDED, description="Never returned")] = []
    exclude_seen: Annotated[bool, Field(description="No item of the history is returned")] = True
    diversity: Annotated[float, Field(ge=0, le=1, description="0: by score alone; 1: by difference alone")] = 0.0
    explain: Annotated[bool, Field(description="Return how much each item of the history weighs for each item")] = False
    return_fields: Annotated[
        list[str] | None, Field(max_length=64, description="Fields of the items; the title by default")
    ] = None
    model: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=64,
            description="Kind of model: hllm or hatllm; default: of the user's arm, or the default kind",
        ),
    ] = None
    mode: Annotated[
        Mode | None,
        Field(description="How a hatllm recommends: retrieve items by their embeddings, or generate their titles"),
    ] = None
    min_event_token: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="Of an answer of /events; a warning says if it is not counted"),
    ] = None
    timeout_ms: Annotated[int | None, Field(ge=1, le=600_000, description="For the whole answer; then 504")] = None

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.user_id is None and self.history is None:
            raise ValueError("expected user_id or history")
        return self


class ReasonAnswer(_Wire):
    """An item of the history, and how much it weighs for the recommended one."""

    item_id: str
    weight: Annotated[
        float,
        Field(ge=0, description="The weights of one item sum to 1. hllm: likeness of the two items; hatllm: attention"),
    ]


class ItemAnswer(_Wire):
    """One recommended item."""

    rank: Annotated[int, Field(ge=1)]
    item_id: str
    score: Annotated[
        float,
        Field(
            description="Cosine with the user embedding; of a generated item the log-probability of its title; 0 where "
            "no model scored the item"
        ),
    ]
    fields: dict[str, Any]
    reasons: Annotated[list[ReasonAnswer], Field(description="With explain; the heaviest first")]


class ModelAnswer(_Wire):
    """Which model answered."""

    kind: str
    version: str


class ExperimentAnswer(_Wire):
    """The experiment that decided which kind of model answers."""

    name: str
    arm: Annotated[str, Field(description="The kind of model that the user is assigned to")]


class TimingAnswer(_Wire):
    """Milliseconds per step."""

    history: float
    queue: Annotated[float, Field(description="Waiting for the model")]
    encode: Annotated[float, Field(description="All that the model did: reading, generating, explaining")]
    search: float
    rank: float
    total: float


class RecommendAnswer(_Wire):
    """The answer of ``POST /recommend``."""

    recommendation_id: str
    user_id: str | None
    items: list[ItemAnswer]
    source: Annotated[str, Field(description='"model" or "fallback:<step>"')]
    warnings: list[str]
    model: ModelAnswer
    bundle: str
    mode: Annotated[Mode, Field(description="How the model recommends")]
    experiment: Annotated[
        ExperimentAnswer | None, Field(description="null if none is on, or the request itself chose the model")
    ]
    history_length: Annotated[int, Field(description="Interactions that the model read")]
    timing_ms: TimingAnswer


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
        raise ValueError(f"{timestamp} is more than a day in the future; expected seconds since 1970")
    return timestamp


class EventIn(_Wire):
    """One reported interaction."""

    event_id: Annotated[
        Identifier | None,
        Field(description="The same one again is a duplicate; default: made from user, item, type and timestamp"),
    ] = None
    user_id: Identifier
    item_id: Identifier
    type: Annotated[str, Field(min_length=1, max_length=64)] = "click"
    timestamp: Annotated[Timestamp, AfterValidator(_is_not_in_the_future)]
    recommendation_id: Identifier | None = None
    properties: Annotated[dict[str, Any], AfterValidator(_is_storable)] = {}


# Each event is checked by itself, so that a bad one rejects itself alone; the documentation shows what is
# expected.
_AnyEvent = Annotated[Any, WithJsonSchema(EventIn.model_json_schema())]


class EventsRequest(_Wire):
    """The body of ``POST /events``."""

    events: Annotated[list[_AnyEvent], Field(min_length=1, max_length=MAX_EVENTS)]


class RejectedEvent(_Wire):
    """Why one event was not taken."""

    index: Annotated[int, Field(description="Its place in the request, from 0")]
    event_id: str | None
    code: str
    detail: str


class EventsAnswer(_Wire):
    """The answer of ``POST /events``; what was accepted is durable, and the next answer counts it in."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]
    event_token: str | None


class CatalogueItem(_Wire):
    """An item as the live bundle has it."""

    item_id: str
    fields: dict[str, Any]


class CatalogueAnswer(_Wire):
    """The answer of ``GET /items``."""

    items: list[CatalogueItem]
    bundle: str


class SimilarAnswer(_Wire):
    """The answer of ``GET /items/{id}/similar``."""

    item_id: str
    items: list[ItemAnswer]
    bundle: str


class UserEvent(_Wire):
    """One kept interaction."""

    event_id: str
    item_id: str
    type: str
    timestamp: int
    recommendation_id: str | None
    properties: dict[str, Any]


class UserAnswer(_Wire):
    """The answer of ``GET /users/{id}``: the kept history, oldest first."""

    user_id: str
    history: list[UserEvent]


class ErasedStoreAnswer(_Wire):
    """One store that was touched."""

    store: str
    records: int


class ErasureReceipt(_Wire):
    """The answer of ``DELETE /users/{id}``."""

    receipt_id: str
    user_id: str
    erased_at: Annotated[str, Field(description="ISO 8601, UTC")]
    stores: list[ErasedStoreAnswer]


class AdminRequest(_Wire):
    """The optional body of ``POST /admin/rollback``."""

    model: Annotated[str | None, Field(min_length=1, max_length=64)] = None


class LiveBundlesAnswer(_Wire):
    """Which bundle answers for each kind of model."""

    bundles: dict[str, str]
    default: str | None
    changed: list[str]


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
