"""Bodies of ``POST /recommend``."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from model_store.people.moments import END_OF_TIME
from service.recommend.candidates.caps import MAX_CAPPED
from service.recommend.candidates.filter_wire import Filter, FilterNode
from service.recommend.paging import MAX_CURSOR_LENGTH
from service.routes.schemas.wire import MAX_ID_LENGTH, Identifier, Timestamp, Wire

MAX_K = 500
MAX_HISTORY = 10_000
MAX_EXCLUDED = 10_000
# What a request for a later page may say.
_WITH_CURSOR = frozenset({"cursor", "user_id", "session_id", "k", "return_fields", "exclude_item_ids", "timeout_ms"})
Mode = Literal["retrieve", "generate"]


class HistoryItem(Wire):
    """One interaction of an inline history."""

    item_id: Identifier
    timestamp: Timestamp | None = None
    type: Annotated[
        str | None, Field(min_length=1, max_length=64, description="For seen_types; without it, it counts as any type")
    ] = None


class SegmentChoice(Wire):
    """A part of the catalogue with a popularity of its own: the items that share a value of an attribute."""

    attribute: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_ID_LENGTH, description="Default: of the settings, or a category-like one"),
    ] = None
    value: Annotated[
        str | int | bool | None,
        Field(description="Default: the most frequent one among the latest items of the history"),
    ] = None


class ListRequest(Wire):
    """What every request for a list may say: whose taste, which constraints, what is wanted of the items."""

    user_id: Annotated[
        Identifier | None, Field(description="Whose stored history is read; also decides the arm of an experiment")
    ] = None
    session_id: Annotated[
        Identifier | None,
        Field(description="Of a visitor who is not known yet; with a user_id, both histories are read as one"),
    ] = None
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
    seen_types: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]] | None,
        Field(max_length=64, description="Types of events that count as seen; all if empty; default: of the settings"),
    ] = None
    seen_max_age_seconds: Annotated[
        int | None,
        Field(ge=1, le=END_OF_TIME, description="What is older may come back; default: of the settings"),
    ] = None
    max_per: Annotated[
        dict[Annotated[str, Field(max_length=MAX_ID_LENGTH)], Annotated[int, Field(ge=1, le=MAX_K)]],
        Field(max_length=MAX_CAPPED, description="Attribute to how many items of one of its values are returned"),
    ] = {}
    scenario: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="Of the scenario file: filters, pins, boosts and defaults"),
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
            description="Kind of model: hllm, hatllm or blend; default: of the user's arm, or the default kind",
        ),
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


class RecommendRequest(ListRequest):
    """The body of ``POST /recommend``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": "customer-95", "k": 10, "return_fields": ["title", "price"]},
                {"history": ["item-00003", "item-00001"], "k": 5, "filter": {"category": "Audio", "price": {"lt": 50}}},
            ]
        }
    )

    k: Annotated[int, Field(ge=1, le=MAX_K, description="How many items are wanted")] = 10
    exclude_item_ids: Annotated[list[Identifier], Field(max_length=MAX_EXCLUDED, description="Never returned")] = []
    exclude_seen: Annotated[bool, Field(description="No item of the history is returned")] = True
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
    mode: Annotated[
        Mode | None,
        Field(description="How a hatllm recommends: retrieve items by their embeddings, or generate their titles"),
    ] = None

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


class ReasonAnswer(Wire):
    """An item of the history, and how much it weighs for the recommended one."""

    item_id: str
    weight: Annotated[
        float,
        Field(
            ge=0,
            description="The weights of one item sum to 1. hatllm: attention; else: likeness of the two items",
        ),
    ]


class ItemAnswer(Wire):
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
    pinned: Annotated[bool, Field(description="The scenario gives it its place")] = False
    boosted: Annotated[bool, Field(description="A boost of the scenario moves it up or down")] = False
    heads: Annotated[
        dict[str, float] | None,
        Field(description="With explain, of a blend: what each of its models adds to the score"),
    ] = None


class ModelAnswer(Wire):
    """Which model answered."""

    kind: str
    version: str


class ScenarioAnswer(Wire):
    """The scenario that the list was made by."""

    name: str
    version: Annotated[str, Field(description="A hash of what it says: another one after every change")]


class ExperimentAnswer(Wire):
    """The experiment that decided which kind of model answers."""

    name: str
    arm: Annotated[str, Field(description="The kind of model that the user is assigned to")]


class TimingAnswer(Wire):
    """Milliseconds per step."""

    history: float
    queue: Annotated[float, Field(description="Waiting for the model")]
    encode: Annotated[float, Field(description="All that the model did: reading, generating, explaining")]
    search: float
    rank: float
    total: float


class RecommendAnswer(Wire):
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
    left_out: Annotated[
        dict[str, int],
        Field(
            description="How many items could not be on the list, by reason: filter, hidden, excluded, seen, cap. An "
            "item with several reasons counts for each. Empty for later pages"
        ),
    ]
    next_cursor: Annotated[
        str | None, Field(description="With paginate: for the next page; null where nothing comes after this one")
    ]
    timing_ms: TimingAnswer
