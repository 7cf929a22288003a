"""``/users/{id}``: what is kept of a user, and its erasure."""

import uuid
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from service.auth import require
from service.dependencies import ServiceDep
from service.schemas import MAX_ID_LENGTH, ErasedStoreAnswer, ErasureReceipt, UserAnswer, UserEvent

router = APIRouter(tags=["users"], dependencies=[Depends(require("admin"))])

UserId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]


@router.get("/users/{user_id:path}")
async def show_user(service: ServiceDep, user_id: UserId) -> UserAnswer:
    """Shows a user's kept history, oldest first; an unknown user has an empty one."""
    stored = await service.histories.read(user_id)
    return UserAnswer(
        user_id=user_id,
        history=[
            UserEvent(
                event_id=event.event_id,
                item_id=event.item_id,
                type=event.type,
                timestamp=event.timestamp,
                recommendation_id=event.recommendation_id,
                properties=dict(event.properties),
            )
            for event in stored.events
        ],
    )


@router.delete("/users/{user_id:path}")
async def erase_user(service: ServiceDep, user_id: UserId) -> ErasureReceipt:
    """Deletes everything kept of a user, and says what that was."""
    erased = await service.erase(user_id)
    return ErasureReceipt(
        receipt_id=uuid.uuid4().hex,
        user_id=user_id,
        erased_at=datetime.now(UTC).isoformat(timespec="seconds"),
        stores=[ErasedStoreAnswer(store=store.store, records=store.records) for store in erased],
    )
