"""``GET /items``: the catalogue of the live bundle."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from service.engine.served_bundle import ServedBundle
from service.http.auth import require
from service.http.dependencies import ServiceDep
from service.http.literal_route import LiteralRoute
from service.people.hidden_set import HiddenItems
from service.recommend.ask import RankedItem
from service.recommend.browse import item_index_of, similar_items
from service.recommend.ranking.describe import ranked_items
from service.recommend.search import find_by_title
from service.routes.recommend import item_answers
from service.routes.schemas.items import CatalogueAnswer, CatalogueItem, SimilarAnswer
from service.routes.schemas.recommend import MAX_K
from service.wiring import RunningService

router = APIRouter(route_class=LiteralRoute, tags=["items"], dependencies=[Depends(require("recommend"))])

Model = Annotated[str | None, Query(max_length=64, description="Kind of model; the default one by default")]
K = Annotated[int, Query(ge=1, le=MAX_K, description="At most this many items")]
ItemId = Annotated[str, Path(description="Id of the item, percent-encoded")]


@router.get("/items")
async def list_items(
    service: ServiceDep,
    query: Annotated[
        str, Query(max_length=256, description="Words of the title; small typing mistakes are forgiven")
    ] = "",
    limit: K = 20,
    model: Model = None,
) -> CatalogueAnswer:
    """Finds items by words of their titles, the most popular first; then those whose words are nearly these."""
    served = service.bundles.get(model)
    hidden = await _hidden(service)
    found = await service.run_blocking(
        lambda: [_item(served, int(index)) for index in find_by_title(served, query, limit, hidden)]
    )
    return CatalogueAnswer(items=found, bundle=served.bundle_id)


# Item ids may contain slashes, so the more specific path must come first.
@router.get("/items/{item_id:path}/similar")
async def list_similar_items(service: ServiceDep, item_id: ItemId, k: K = 10, model: Model = None) -> SimilarAnswer:
    """Finds the items nearest to an item; scores are cosines of item embeddings."""
    served = service.bundles.get(model)
    hidden = await _hidden(service)
    item_index = item_index_of(served, item_id, hidden)
    items = await service.run_blocking(lambda: _similar(served, item_index, k, hidden))
    return SimilarAnswer(item_id=item_id, items=item_answers(items), bundle=served.bundle_id)


@router.get("/items/{item_id:path}")
async def show_item(service: ServiceDep, item_id: ItemId, model: Model = None) -> CatalogueItem:
    """Shows one item with all its fields."""
    served = service.bundles.get(model)
    return _item(served, item_index_of(served, item_id, await _hidden(service)))


async def _hidden(service: RunningService) -> HiddenItems:
    return await service.hidden.current(within=service.request_timeout_seconds)


def _item(served: ServedBundle, item_index: int) -> CatalogueItem:
    catalogue = served.catalogue
    return CatalogueItem(item_id=catalogue.id_of(item_index), fields=catalogue.fields(item_index))


def _similar(served: ServedBundle, item_index: int, k: int, hidden: HiddenItems) -> list[RankedItem]:
    found = similar_items(served, item_index, k, hidden)
    return ranked_items(served.catalogue, found.item_indices, found.scores, None)
