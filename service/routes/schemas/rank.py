"""Bodies of ``POST /rank``."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from service.routes.schemas.recommend import ListRequest, RecommendAnswer
from service.routes.schemas.wire import Identifier

MAX_RANKED = 1_000


class RankRequest(ListRequest):
    """The body of ``POST /rank``: which items, and what every request for a list may say."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "customer-95", "item_ids": ["item-00003", "item-00001"]}]}
    )

    item_ids: Annotated[
        list[Identifier], Field(min_length=1, max_length=MAX_RANKED, description="To be ranked, each once")
    ]
    k: Annotated[
        int | None, Field(ge=1, le=MAX_RANKED, description="How many of them are returned; all by default")
    ] = None
    exclude_seen: Annotated[
        bool, Field(description="No item of the history is returned; in a search result it usually may be")
    ] = False

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
