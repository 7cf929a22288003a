"""An id in a path may be any text, also one that looks like the path of something else."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pyarrow as pa
import pytest

from model_store.artifacts.store import ModelStore
from service.settings import Settings
from tests.shop import add_small_bundle, add_small_model, event, running_app, shop_items

IDS = (
    "a",
    "a/similar",
    "similar",
    "a/similar/similar",
    "/",
    "x/hide",
    "x",
    "b/show/merge",
    "c%2Fsimilar",
    "ü/ß",
    "d?k=1",
)


@pytest.fixture(scope="module")
def odd_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd") / "store"
    store, items = ModelStore(root), shop_items().slice(0, len(IDS))
    items = items.set_column(0, "item_id", pa.array(IDS))
    store.publish(add_small_bundle(store, add_small_model(store), items=items).bundle_id)
    return root


@pytest.fixture
async def odd_client(settings: Settings, odd_root: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with running_app(settings.model_copy(update={"store": str(odd_root)})) as (_, client):
        yield client


@pytest.mark.parametrize("item_id", IDS)
@pytest.mark.parametrize("version", ["", "/v1"])
async def test_an_item_and_its_neighbours_are_told_apart(
    odd_client: httpx2.AsyncClient, item_id: str, version: str
) -> None:
    path = f"{version}/items/{quote(item_id, safe='')}"
    assert (await odd_client.get(path)).json()["item_id"] == item_id
    similar = (await odd_client.get(f"{path}/similar")).json()
    assert similar["item_id"] == item_id
    assert len(similar["items"]) == 10
    assert item_id not in [item["item_id"] for item in similar["items"]]


@pytest.mark.parametrize("item_id", IDS)
async def test_each_can_be_hidden_and_shown(odd_client: httpx2.AsyncClient, item_id: str) -> None:
    path = f"/admin/items/{quote(item_id, safe='')}"
    assert (await odd_client.post(f"{path}/hide")).json()["item_id"] == item_id
    assert (await odd_client.get(f"/items/{quote(item_id, safe='')}")).status_code == 404
    assert (await odd_client.post(f"{path}/show")).json()["item_id"] == item_id
    assert (await odd_client.post(path)).status_code in {404, 405}


@pytest.mark.parametrize("user_id", ["u/merge", "u/merge/merge", "merge"])
async def test_a_user_is_not_a_merge(odd_client: httpx2.AsyncClient, user_id: str) -> None:
    path = f"/users/{quote(user_id, safe='')}"
    await odd_client.post("/events", json={"events": [event(user_id, "a", 1)]})
    assert (await odd_client.get(path)).json()["user_id"] == user_id
    assert (await odd_client.post(path, json={"session_id": "s"})).status_code == 405
    assert (await odd_client.post(f"{path}/merge", json={"session_id": "s"})).json()["user_id"] == user_id
    assert (await odd_client.delete(path)).status_code == 200


async def test_a_slash_as_it_is_still_belongs_to_the_id(odd_client: httpx2.AsyncClient) -> None:
    assert (await odd_client.get("/items/ü/ß")).json()["item_id"] == "ü/ß"
    assert (await odd_client.get("/items/a/similar")).json()["item_id"] == "a"
