"""``/users/{id}`` and ``/sessions/{id}``: what is kept of a user or session, its erasure, and joining the two."""

from collections.abc import Sequence
from datetime import UTC, datetime
from secrets import token_hex
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path

from model_store.people.owner import Owner
from service.http.auth import require
from service.http.dependencies import ServiceDep
from service.http.literal_route import LiteralRoute
from service.people.history_store import ErasedStore, Event
from service.routes.schemas.people import (
    ErasedStoreAnswer,
    ErasureReceipt,
    MergeAnswer,
    MergeRequest,
    SessionAnswer,
    UserAnswer,
    UserEvent,
)
from service.routes.schemas.wire import MAX_ID_LENGTH

router = APIRouter(route_class=LiteralRoute, tags=["users"])
_ADMIN = [Depends(require("admin"))]
# whoever reports a session's events may say whose they are
_REPORTER = [Depends(require("events"))]

UserId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, description="Id of the user, percent-encoded")]
SessionId = Annotated[
    str, Path(min_length=1, max_length=MAX_ID_LENGTH, description="Id of the session, percent-encoded")
]


@router.post("/users/{user_id:path}/merge", dependencies=_REPORTER)
async def merge_session(service: ServiceDep, user_id: UserId, request: Annotated[MergeRequest, Body()]) -> MergeAnswer:
    """Moves a session's events into a user's history, as when a visitor signs in. Asking again is safe."""
    outcome = await service.people.merge(Owner(request.session_id, is_session=True), Owner(user_id))
    return MergeAnswer(
        user_id=user_id, session_id=request.session_id, moved=outcome.moved, duplicates=outcome.duplicates
    )


@router.get("/users/{user_id:path}", dependencies=_ADMIN)
async def show_user(service: ServiceDep, user_id: UserId) -> UserAnswer:
    """Shows a user's kept history, oldest first; an unknown user has an empty one."""
    return UserAnswer(user_id=user_id, history=_history(await service.histories.events(Owner(user_id))))


@router.delete("/users/{user_id:path}", dependencies=_ADMIN)
async def erase_user(service: ServiceDep, user_id: UserId) -> ErasureReceipt:
    """Deletes everything kept of a user and of the sessions merged into them, and says what that was."""
    return _receipt(await service.people.erase(Owner(user_id)), user_id=user_id)


@router.get("/sessions/{session_id:path}", dependencies=_ADMIN)
async def show_session(service: ServiceDep, session_id: SessionId) -> SessionAnswer:
    """Shows a session's kept history, oldest first; an unknown session has an empty one."""
    events = await service.histories.events(Owner(session_id, is_session=True))
    return SessionAnswer(session_id=session_id, history=_history(events))


@router.delete("/sessions/{session_id:path}", dependencies=_ADMIN)
async def erase_session(service: ServiceDep, session_id: SessionId) -> ErasureReceipt:
    """Deletes everything kept of a session, and says what that was."""
    return _receipt(await service.people.erase(Owner(session_id, is_session=True)), session_id=session_id)


def _history(events: Sequence[Event]) -> list[UserEvent]:
    return [
        UserEvent(
            event_id=event.event_id,
            item_id=event.item_id,
            type=event.type,
            timestamp=event.timestamp,
            recommendation_id=event.recommendation_id,
            properties=dict(event.properties),
        )
        for event in events
    ]


def _receipt(
    erased: Sequence[ErasedStore], *, user_id: str | None = None, session_id: str | None = None
) -> ErasureReceipt:
    return ErasureReceipt(
        receipt_id=token_hex(16),
        user_id=user_id,
        session_id=session_id,
        erased_at=datetime.now(UTC).isoformat(timespec="seconds"),
        stores=[ErasedStoreAnswer(store=store.store, records=store.records) for store in erased],
    )
