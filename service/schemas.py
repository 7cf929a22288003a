"""What goes over the wire; strict, so that ``"k": "10"`` and unknown fields are mistakes and not guesses."""

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from service.pipeline.caps import MAX_CAPPED
from service.pipeline.filter_request import Filter, FilterNode
from service.pipeline.paging import MAX_CURSOR_LENGTH

MAX_K = 500
MAX_EVENTS = 1_000
MAX_HISTORY = 10_000
MAX_EXCLUDED = 10_000
MAX_ID_LENGTH = 256
MAX_PROPERTIES_BYTES = 4_096
# 2100-01-01. Beyond it a number is milliseconds, or a mistake.
MAX_TIMESTAMP = 4_102_444_800
MAX_CLOCK_SKEW_SECONDS = 86_400
_READABLE_LENGTH = 64
# What a request for a later page may say.
_WITH_CURSOR = frozenset({"cursor", "user_id", "session_id", "k", "return_fields", "exclude_item_ids", "timeout_ms"})


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Record(BaseModel):
    """Something that was kept: maybe by an older version, or a newer one."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Timestamp = Annotated[int, Field(ge=0, le=MAX_TIMESTAMP, description="Seconds since 1970")]
Mode = Literal["retrieve", "generate"]


class HistoryItem(_Wire):
    """One interaction of an inline history."""

    item_id: Identifier
    timestamp: Timestamp | None = None
    type: Annotated[
        str | None, Field(min_length=1, max_length=64, description="For seen_types; without it, it counts as any type")
    ] = None


class SegmentChoice(_Wire):
    """A part of the catalogue with a popularity of its own: the items that share a value of an attribute."""

    attribute: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_ID_LENGTH, description="Default: of the settings, or a category-like one"),
    ] = None
    value: Annotated[
        str | int | bool | None,
        Field(description="Default: the most frequent one among the latest items of the history"),
    ] = None


class RecommendRequest(_Wire):
    """The body of ``POST /recommend``."""

    user_id: Annotated[
        Identifier | None, Field(description="Whose stored history is read; also decides the arm of an experiment")
    ] = None
    session_id: Annotated[
        Identifier | None,
        Field(description="Of a visitor who is not known yet; with a user_id, both histories are read as one"),
    ] = None
    k: Annotated[int, Field(ge=1, le=MAX_K, description="How many items are wanted")] = 10
    history: Annotated[
        list[Identifier | HistoryItem] | None,
        Field(max_length=MAX_HISTORY, description="Oldest first; used instead of the stored history"),
    ] = None
    filter: Annotated[
        Filter,
        Field(
            description="Conditions per attribute, and of such objects: lists under and and or, one under not. All "
            "entries must hold; at most 8 deep, 64 conditions, 1,000 values"
        ),
    ] = FilterNode()
    exclude_item_ids: Annotated[list[Identifier], Field(max_length=MAX_EXCLUDED, description="Never returned")] = []
    exclude_seen: Annotated[bool, Field(description="No item of the history is returned")] = True
    seen_types: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]] | None,
        Field(max_length=64, description="Types of events that count as seen; all if empty; default: of the settings"),
    ] = None
    seen_max_age_seconds: Annotated[
        int | None,
        Field(ge=1, le=MAX_TIMESTAMP, description="What is older may come back; default: of the settings"),
    ] = None
    max_per: Annotated[
        dict[Annotated[str, Field(max_length=MAX_ID_LENGTH)], Annotated[int, Field(ge=1, le=MAX_K)]],
        Field(max_length=MAX_CAPPED, description="Attribute to how many items of one of its values are returned"),
    ] = {}
    scenario: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="Of the scenario file: filters, pins, boosts and defaults"),
    ] = None
    paginate: Annotated[bool, Field(description="Keep the list for a while, and answer with a next_cursor")] = False
    cursor: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_CURSOR_LENGTH,
            description="A next_cursor: the next page of its list. Beside it only user_id and session_id (as before), "
            "k, return_fields, exclude_item_ids and timeout_ms",
        ),
    ] = None
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
    segment: Annotated[
        SegmentChoice | None,
        Field(description="Whose popular items are shown where no model answers; default: of the latest items"),
    ] = None
    timeout_ms: Annotated[
        int | None,
        Field(ge=1, le=600_000, description="For the whole answer; what would take longer is answered by a fallback"),
    ] = None

    @property
    def sent(self) -> frozenset[str]:
        """The fields that the request sets, null not being a value."""
        return frozenset(name for name in self.model_fields_set if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.user_id is None and self.session_id is None and self.history is None and self.cursor is None:
            raise ValueError("expected user_id, session_id or history")
        return self

    @model_validator(mode="after")
    def _asks_for_a_page_or_a_list(self) -> Self:
        others = sorted(self.sent - _WITH_CURSOR)
        if self.cursor is not None and others:
            raise PydanticCustomError(
                "cursor", f"beside cursor, expected nothing but {', '.join(sorted(_WITH_CURSOR))}; got {others[0]}"
            )
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


class ScenarioAnswer(_Wire):
    """The scenario that the list was made by."""

    name: str
    version: Annotated[str, Field(description="A hash of what it says: another one after every change")]


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
    scenario: Annotated[ScenarioAnswer | None, Field(description="null if the request named none")]
    history_length: Annotated[int, Field(description="Interactions that the model read")]
    next_cursor: Annotated[
        str | None, Field(description="With paginate: for the next page; null where nothing comes after this one")
    ]
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
    type: Annotated[str, Field(min_length=1, max_length=64)] = "click"
    timestamp: Annotated[Timestamp, AfterValidator(_is_not_in_the_future)]
    recommendation_id: Annotated[
        Identifier | None, Field(description="Of the answer that led to it; kept with the event, and counted")
    ] = None
    properties: Annotated[dict[str, Any], AfterValidator(_is_storable)] = {}

    @model_validator(mode="after")
    def _is_somebodys(self) -> Self:
        if not (self.user_id or self.session_id):
            raise PydanticCustomError("missing", "expected user_id or session_id")
        if self.user_id and self.session_id:
            raise PydanticCustomError("not_both", "expected user_id or session_id, not both; a session can be merged")
        return self


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


class HiddenItemAnswer(_Wire):
    """The answer of ``POST /admin/items/{id}/hide`` and ``/show``."""

    item_id: str
    hidden: bool
    hidden_at: Annotated[str | None, Field(description="ISO 8601, UTC; null if it is not hidden")]


class HiddenItemsAnswer(_Wire):
    """The answer of ``GET /admin/items/hidden``: the last hidden first."""

    total: Annotated[int, Field(description="How many items are hidden")]
    items: list[HiddenItemAnswer]


class ScenarioSummary(_Wire):
    """One scenario of the file."""

    name: str
    version: str
    description: str


class ScenariosAnswer(_Wire):
    """The answer of ``GET /scenarios``."""

    scenarios: list[ScenarioSummary]


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


class SessionAnswer(_Wire):
    """The answer of ``GET /sessions/{id}``: the kept history, oldest first."""

    session_id: str
    history: list[UserEvent]


class MergeRequest(_Wire):
    """The body of ``POST /users/{id}/merge``."""

    session_id: Annotated[Identifier, Field(description="Whose events go to the user")]


class MergeAnswer(_Wire):
    """The answer of ``POST /users/{id}/merge``; the user's next recommendation counts them in."""

    user_id: str
    session_id: str
    moved: Annotated[int, Field(description="Events that are new in the user's history")]
    duplicates: Annotated[int, Field(description="Events that the user had already, under the same event_id")]


class ErasedStoreAnswer(_Wire):
    """One store that was touched."""

    store: str
    records: int


class ErasureReceipt(_Wire):
    """The answer of ``DELETE /users/{id}``."""

    receipt_id: str
    user_id: Annotated[str | None, Field(description="null where a session was erased")]
    session_id: Annotated[str | None, Field(description="null where a user was erased")] = None
    erased_at: Annotated[str, Field(description="ISO 8601, UTC")]
    stores: list[ErasedStoreAnswer]


class DecisionVersions(_Record):
    """What answered."""

    service: str
    kind: str
    model: str
    bundle: str
    mode: str
    scenario: Annotated[dict[str, str] | None, Field(description="Name and version")]


class DecisionHistory(_Record):
    """The history that an answer was made of."""

    is_own: Annotated[bool, Field(description="It came with the request")]
    is_current: Annotated[bool, Field(description="False: the last known one, as the stored one could not be read")]
    length: int
    known: Annotated[int, Field(description="Of items in the catalogue")]
    read: Annotated[int, Field(description="Of these, how many the model reads: the latest")]
    sha256: str
    item_ids: Annotated[list[str] | None, Field(description="Oldest first; null where only the hash was kept")]
    timestamps: list[int | None] | None
    types: Annotated[list[str | None] | None, Field(description="null where nobody said any")]


class DecisionItemIds(_Record):
    """Items that might not be returned; null where they were too many to be kept."""

    count: int
    item_ids: list[str] | None


class DecisionItem(_Record):
    """One item of the answer."""

    item_id: str
    score: float
    reasons: list[ReasonAnswer]


class DecisionAnswer(_Record):
    """The answer of ``GET /recommendations/{id}``; ``offline.replay`` makes the list again from it."""

    schema_version: int
    recommendation_id: str
    created_at: str
    asked_by: Annotated[str | None, Field(description="Name of the API key")]
    user_id: str | None
    session_id: str | None
    versions: DecisionVersions
    experiment: ExperimentAnswer | None
    request: Annotated[
        dict[str, Any],
        Field(
            description="What was asked, with what the scenario and the settings say; without fields that are defaults"
        ),
    ]
    excluded: DecisionItemIds
    history: DecisionHistory
    hidden: DecisionItemIds
    segment_attribute: Annotated[str | None, Field(description="Null where no segment was known")]
    earlier_embedding: Annotated[
        str | None, Field(description="Base64 of float32, where the search was with one of an earlier request")
    ]
    counts: Annotated[dict[str, int], Field(description="Candidates per stage")]
    plans: Annotated[list[dict[str, Any]], Field(description="How they were looked for")]
    steps: Annotated[list[dict[str, str]], Field(description="What became of each step that was due, and why")]
    source: str
    fallback_reason: str | None
    warnings: list[str]
    timing_ms: TimingAnswer
    items: list[DecisionItem]


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
