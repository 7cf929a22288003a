"""Items, probes, metrics, keys, and what a swap of the live bundle promises."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from model_store.artifacts.manifest import BundleManifest
from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from service.app import create_app
from service.settings import ApiKey, Settings
from tests.shop import add_small_bundle, event, item_ids, running_app, shop_items


@pytest.fixture
def own_settings(settings: Settings, shop_root: Path, tmp_path: Path) -> Settings:
    """A copy of the shop's store that a test may change."""
    shutil.copytree(shop_root, tmp_path / "store")
    return settings.model_copy(update={"store": str(tmp_path / "store")})


@pytest.fixture
async def own_client(own_settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with running_app(own_settings) as (_, client):
        yield client


def _publish_smaller(settings: Settings) -> BundleManifest:
    """A second bundle: the first 30 items only, other embeddings."""
    store = ModelStore(settings.store)
    bundle = add_small_bundle(store, store.models()[0], items=shop_items().slice(0, 30), seed=1)
    store.publish(bundle.bundle_id)
    return bundle


async def test_an_item_is_shown_with_what_is_known_of_it(client: httpx2.AsyncClient) -> None:
    answer = (await client.get("/items/i10")).json()
    # it has no price
    assert answer == {
        "item_id": "i10",
        "fields": {
            "title": "Books thing number 10",
            "category": "Books",
            "stock": 10,
            "is_new": False,
            "tags": ["even"],
        },
    }
    missing = await client.get("/items/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_item")


async def test_items_are_found_by_words_of_their_titles(client: httpx2.AsyncClient) -> None:
    found = (await client.get("/items", params={"query": "BOOKS ber 1", "limit": 3})).json()["items"]
    assert [item["item_id"] for item in found] == ["i1", "i10", "i13"]
    assert (await client.get("/items", params={"query": "%_.*"})).json()["items"] == []
    assert len((await client.get("/items")).json()["items"]) == 20


async def test_similar_items_leave_the_item_itself_out(client: httpx2.AsyncClient) -> None:
    similar = (await client.get("/items/i7/similar", params={"k": 500})).json()["items"]
    assert len(similar) == 59
    assert "i7" not in {item["item_id"] for item in similar}
    scores = [item["score"] for item in similar]
    assert scores == sorted(scores, reverse=True)
    assert (await client.get("/items/none/similar")).status_code == 404
    assert (await client.get("/items/i7/similar", params={"k": 0})).status_code == 422


async def test_probes_version_and_unknown_paths(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/livez")).json() == {"status": "ok"}
    ready = await client.get("/readyz")
    assert ready.json() == {
        "status": "ready",
        "checks": {"bundle": "ok", "store": "ok", "model_worker": "ok", "history_store": "ok"},
        "refused": {},
    }
    version = (await client.get("/version")).json()
    assert (version["models"]["hllm"]["items"], version["models"]["hllm"]["modes"]) == (60, ["retrieve"])
    assert version["models"]["hllm"]["text_fields"] == ["title"]
    assert version["experiment"] is None
    assert (version["refused"], version["draining"]) == ({}, [])
    for answer, status, code in (
        (await client.get("/nowhere"), 404, "not_found"),
        (await client.get("/recommend"), 405, "method_not_allowed"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_sane_request_id_is_kept_and_another_one_replaced(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/livez", headers={"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
    assert len((await client.get("/livez", headers={"x-request-id": "a b\tc"})).headers["x-request-id"]) == 32


async def test_metrics_count_what_happened(client: httpx2.AsyncClient) -> None:
    await client.post("/recommend", json={"history": ["i1"]})
    await client.post("/v1/recommend", json={"user_id": "nobody"})
    await client.post("/recommend", json={"k": 0})
    await client.post("/events", json={"events": [event("metrics-user", "i1", 1), {}]})
    text = (await client.get("/metrics")).text
    for line in (
        'hatstand_recommendations_total{arm="none",kind="hllm",mode="retrieve",source="model"} 1.0',
        'hatstand_recommendations_total{arm="none",kind="hllm",mode="retrieve",source="fallback:popular"} 1.0',
        'hatstand_stage_duration_seconds_count{kind="hllm",mode="retrieve",stage="encode"} 2.0',
        'hatstand_model_state_bytes{kind="hllm"} 0.0',
        'hatstand_fallbacks_total{reason="no_known_history"} 1.0',
        'hatstand_errors_total{code="invalid_request"} 1.0',
        'hatstand_events_total{result="rejected"} 1.0',
        'hatstand_http_request_duration_seconds_count{method="POST",route="/recommend",status="200"} 2.0',
        'hatstand_http_request_duration_seconds_count{method="POST",route="/recommend",status="422"} 1.0',
        'hatstand_bundle_items{kind="hllm"} 60.0',
        "hatstand_batch_users_count 1.0",
        "hatstand_history_store_up 1.0",
    ):
        assert line in text


async def test_a_store_without_a_bundle_is_not_ready_but_alive(settings: Settings, tmp_path: Path) -> None:
    async with running_app(settings.model_copy(update={"store": str(tmp_path / "empty")})) as (_, client):
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
        assert str(tmp_path / "empty") in ready.json()["checks"]["bundle"]
        answer = await client.post("/recommend", json={"user_id": "u"})
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert answer.headers["retry-after"]
        assert (await client.post("/events", json={"events": [event("early", "i1", 1)]})).status_code == 200


async def test_a_store_that_is_a_file_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(InvalidInput, match=str(path)):
        async with running_app(settings.model_copy(update={"store": str(path)})):
            pass


async def test_reload_and_rollback_swap_the_bundle(own_settings: Settings, own_client: httpx2.AsyncClient) -> None:
    before = (await own_client.get("/version")).json()["models"]["hllm"]["bundle"]
    assert (await own_client.post("/admin/reload")).json() == {
        "bundles": {"hllm": before},
        "default": "hllm",
        "changed": [],
    }
    after = _publish_smaller(own_settings).bundle_id
    assert (await own_client.post("/admin/reload")).json()["changed"] == ["hllm"]
    answer = await own_client.post("/recommend", json={"history": ["i1"], "k": 500})
    assert answer.json()["bundle"] == after
    assert len(item_ids(answer)) == 29
    assert (await own_client.post("/admin/rollback")).json()["bundles"] == {"hllm": before}
    assert (await own_client.post("/recommend", json={"history": ["i1"]})).json()["bundle"] == before
    nothing = await own_client.post("/admin/rollback", json={"model": "hatllm"})
    assert (nothing.status_code, nothing.json()["code"]) == (404, "no_earlier_bundle")


@pytest.mark.parametrize("file", ["item_embeddings.safetensors", "items.parquet", "index.faiss", "manifest.json"])
@pytest.mark.parametrize("is_truncated", [True, False])
async def test_an_altered_bundle_is_refused_by_name_and_the_old_one_goes_on(
    own_settings: Settings, own_client: httpx2.AsyncClient, file: str, is_truncated: bool
) -> None:
    broken = _publish_smaller(own_settings)
    path = Path(own_settings.store) / "bundles" / broken.bundle_id / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(content[: len(content) // 3] if is_truncated else content)
    refused = await own_client.post("/admin/reload")
    assert (refused.status_code, refused.json()["code"]) == (409, "bundle_refused")
    assert file in refused.json()["detail"]
    answer = await own_client.post("/recommend", json={"history": ["i1"], "k": 500})
    assert answer.json()["source"] == "model"
    assert len(item_ids(answer)) == 59
    assert 'hatstand_bundle_swaps_total{result="refused"} 1.0' in (await own_client.get("/metrics")).text


async def test_a_swap_loses_no_request_and_mixes_nothing(
    own_settings: Settings, own_client: httpx2.AsyncClient
) -> None:
    small = _publish_smaller(own_settings).bundle_id
    is_done = False

    async def ask() -> list[tuple[str, int]]:
        seen = []
        while not is_done:
            answer = await own_client.post("/recommend", json={"history": ["i1", "i2"], "k": 500})
            seen.append((answer.json()["bundle"], len(item_ids(answer))))
        return seen

    askers = [asyncio.create_task(ask()) for _ in range(4)]
    for _ in range(3):
        assert (await own_client.post("/admin/reload")).status_code == 200
        assert (await own_client.post("/admin/rollback")).status_code == 200
        ModelStore(own_settings.store).publish(small)
    is_done = True
    seen = {pair for pairs in await asyncio.gather(*askers) for pair in pairs}
    assert {length for bundle, length in seen if bundle == small} <= {28}
    assert {length for bundle, length in seen if bundle != small} <= {58}
    assert len(seen) == 2


def _key(secret: str, *scopes: str) -> ApiKey:
    return ApiKey.model_validate(
        {"name": secret, "sha256": hashlib.sha256(secret.encode()).hexdigest(), "scopes": scopes}
    )


async def test_keys_open_what_their_scopes_say(settings: Settings) -> None:
    keys = (_key("shop", "recommend", "events"), _key("boss", "admin"))
    async with running_app(settings.model_copy(update={"api_keys": keys})) as (_, client):
        body = {"history": ["i1"]}
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            ({"x-api-key": "boss"}, 403),
            ({"x-api-key": "shop"}, 200),
            ({"authorization": "bearer shop"}, 200),
        ):
            answer = await client.post("/recommend", json=body, headers=headers)
            assert answer.status_code == status, headers
        assert (await client.post("/admin/reload", headers={"x-api-key": "shop"})).status_code == 403
        assert (await client.post("/admin/reload", headers={"x-api-key": "boss"})).status_code == 200
        assert (await client.get("/users/u", headers={"x-api-key": "shop"})).status_code == 403
        assert (await client.get("/readyz")).status_code == 200


def test_listening_to_strangers_without_keys_must_be_meant(settings: Settings) -> None:
    outside = settings.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(InvalidInput, match="HATSTAND_ALLOW_ANONYMOUS"):
        create_app(outside)
    create_app(outside.model_copy(update={"allow_anonymous": True}))
    create_app(outside.model_copy(update={"api_keys": (_key("a", "admin"),)}))
