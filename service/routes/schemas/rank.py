"""Bodies of ``POST /rank``."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from service.recommend.candidates.caps import MAX_CAPPED
from service.recommend.candidates.filter_wire import Filter, FilterNode
from service.routes.schemas.recommend import MAX_HISTORY, MAX_K, HistoryItem, RecommendAnswer
from service.routes.schemas.wire import MAX_ID_LENGTH, Identifier, Wire

MAX_RANKED = 1_000


class RankRequest(Wire):
    """The body of ``POST /rank``: whose taste, which items, and the constraints of ``POST /recommend``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "customer-95", "item_ids": ["item-00003", "item-00001"]}]}
    )

    item_ids: Annotated[
        list[Identifier], Field(min_length=1, max_length=MAX_RANKED, description="To be ranked, each once")
    ]
    user_id: Annotated[Identifier | None, Field(description="Whose stored history is read")] = None
    session_id: Annotated[Identifier | None, Field(description="Of a visitor who is not known yet")] = None
    history: Annotated[
        list[Identifier | HistoryItem] | None,
        Field(max_length=MAX_HISTORY, description="Oldest first; used instead of the stored history"),
    ] = None
    k: Annotated[
        int | None, Field(ge=1, le=MAX_RANKED, description="How many of them are returned; all by default")
    ] = None
    filter: Annotated[Filter, Field(description="What must hold of an item, as in /recommend")] = FilterNode()
    exclude_seen: Annotated[
        bool, Field(description="No item of the history is returned; in a search result it usually may be")
    ] = False
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
        str | None, Field(min_length=1, max_length=64, description="Kind of model; default: as in /recommend")
    ] = None
    min_event_token: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="Of an answer of /events; a warning says if it is not counted"),
    ] = None
    timeout_ms: Annotated[int | None, Field(ge=1, le=600_000, description="For the whole answer")] = None

    @property
    def sent(self) -> frozenset[str]:
        """The fields that the request sets, null not being a value."""
        return frozenset(name for name in self.model_fields_set if getattr(self, name) is not None)

    @field_validator("item_ids")
    @classmethod
    def _names_each_once(cls, item_ids: list[str]) -> list[str]:
        known: set[str] = set()
        for item_id in item_ids:
            if item_id in known:
                raise PydanticCustomError(
                    "duplicate", "{item_id} is there twice, expected each item once", {"item_id": repr(item_id)}
                )
            known.add(item_id)
        return item_ids

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.user_id is None and self.session_id is None and self.history is None:
            raise ValueError("expected user_id, session_id or history")
        return self


class RankAnswer(RecommendAnswer):
    """The answer of ``POST /rank``: the candidates that may be returned, best first."""

    unknown_item_ids: Annotated[list[str], Field(description="Candidates that the catalogue does not have")]
