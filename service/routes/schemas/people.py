"""Bodies about users and sessions: histories, merging, erasure."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from service.routes.schemas.wire import Identifier, Wire


class UserEvent(Wire):
    """One kept interaction."""

    event_id: str
    item_id: str
    type: str
    timestamp: int
    recommendation_id: str | None
    properties: dict[str, Any]


class UserAnswer(Wire):
    """The answer of ``GET /users/{id}``: the kept history, oldest first."""

    user_id: str
    history: list[UserEvent]


class SessionAnswer(Wire):
    """The answer of ``GET /sessions/{id}``: the kept history, oldest first."""

    session_id: str
    history: list[UserEvent]


class MergeRequest(Wire):
    """The body of ``POST /users/{id}/merge``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"session_id": "s-7"}]})

    session_id: Annotated[Identifier, Field(description="Whose events go to the user")]


class MergeAnswer(Wire):
    """The answer of ``POST /users/{id}/merge``; the user's next recommendation counts them in."""

    user_id: str
    session_id: str
    moved: Annotated[int, Field(description="Events that are new in the user's history")]
    duplicates: Annotated[int, Field(description="Events that the user had already, under the same event_id")]


class ErasedStoreAnswer(Wire):
    """One store that was touched."""

    store: str
    records: int


class ErasureReceipt(Wire):
    """The answer of ``DELETE /users/{id}``."""

    receipt_id: str
    user_id: Annotated[str | None, Field(description="null where a session was erased")]
    session_id: Annotated[str | None, Field(description="null where a user was erased")] = None
    erased_at: Annotated[str, Field(description="ISO 8601, UTC")]
    stores: list[ErasedStoreAnswer]
