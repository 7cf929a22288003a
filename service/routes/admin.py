"""``/admin/items``: hiding items from every list, at once and on every replica."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from service.http.auth import require
from service.http.dependencies import ServiceDep
from service.http.literal_route import LiteralRoute
from service.people.hidden_set import MAX_HIDDEN, HiddenItem
from service.routes.schemas.items import HiddenItemAnswer, HiddenItemsAnswer
from service.routes.schemas.wire import MAX_ID_LENGTH

router = APIRouter(
    route_class=LiteralRoute, tags=["operations"], prefix="/admin/items", dependencies=[Depends(require("admin"))]
)

ItemId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, description="Id of the item, percent-encoded")]


@router.get("/hidden")
async def list_hidden_items(
    service: ServiceDep,
    limit: Annotated[int, Query(ge=1, le=1_000, description="At most this many items")] = 100,
    offset: Annotated[int, Query(ge=0, le=MAX_HIDDEN, description="Leaves out this many")] = 0,
) -> HiddenItemsAnswer:
    """Lists hidden items, the last hidden first."""
    total, items = await service.hidden.newest(offset=offset, limit=limit)
    return HiddenItemsAnswer(total=total, items=[_answer(item) for item in items])


@router.post("/{item_id:path}/hide")
async def hide_item(service: ServiceDep, item_id: ItemId) -> HiddenItemAnswer:
    """Hides an item: no list that is asked for from now on has it. It need not be in the catalogue (yet)."""
    return _answer(await service.hidden.hide(item_id))


@router.post("/{item_id:path}/show")
async def show_item_again(service: ServiceDep, item_id: ItemId) -> HiddenItemAnswer:
    """Shows a hidden item again; one that is not hidden stays as it is."""
    return _answer(await service.hidden.show(item_id))


def _answer(item: HiddenItem) -> HiddenItemAnswer:
    hidden_at = item.hidden_at
    return HiddenItemAnswer(
        item_id=item.item_id,
        hidden=hidden_at is not None,
        hidden_at=None if hidden_at is None else datetime.fromtimestamp(hidden_at, UTC).isoformat(timespec="seconds"),
    )
