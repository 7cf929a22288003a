"""``POST /recommend`` over the whole application, with a real model, index and Redis."""

import asyncio
import json
import signal
from pathlib import Path
from uuid import uuid4

import httpx2
import numpy as np
import pytest

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.store import ModelStore
from model_store.kinds import make_user_encoder
from model_store.people.histories import History
from service.routes.schemas.recommend import ItemAnswer, RecommendAnswer
from service.settings import Settings
from tests.processes.redis_processes import RedisProcess
from tests.shop import NUM_ITEMS, event, item_ids, running_app

ALL_ITEMS = [f"i{number}" for number in range(1, NUM_ITEMS + 1)]


def _user() -> str:
    return f"user-{uuid4().hex}"


async def _recommend(client: httpx2.AsyncClient, **body: object) -> httpx2.Response:
    return await client.post("/recommend", json=body)


async def test_the_answer_has_the_documented_shape(client: httpx2.AsyncClient) -> None:
    user = _user()
    await client.post("/events", json={"events": [event(user, "i1", 10), event(user, "i2", 20)]})
    answer = await _recommend(client, user_id=user, k=3, return_fields=["title", "price"], explain=True)
    body = answer.json()
    assert list(body) == [
        "recommendation_id",
        "user_id",
        "items",
        "source",
        "warnings",
        "model",
        "bundle",
        "mode",
        "experiment",
        "scenario",
        "history_length",
        "left_out",
        "next_cursor",
        "timing_ms",
    ]
    assert [item["rank"] for item in body["items"]] == [1, 2, 3]
    assert list(body["items"][0]) == ["rank", "item_id", "score", "fields", "reasons", "pinned", "boosted", "heads"]
    assert {reason["item_id"] for reason in body["items"][0]["reasons"]} == {"i1", "i2"}
    assert list(body["timing_ms"]) == ["history", "queue", "encode", "search", "rank", "total"]
    assert (body["source"], body["history_length"], body["user_id"]) == ("model", 2, user)
    assert (body["model"]["kind"], body["mode"], body["experiment"]) == ("hllm", "retrieve", None)
    assert answer.headers["x-request-id"]


async def test_the_answer_is_what_the_offline_encoder_and_an_exact_search_say(
    client: httpx2.AsyncClient, shop_root: Path
) -> None:
    store = ModelStore(shop_root)
    bundle = open_bundle(store, store.live().bundles["hllm"])
    encoder = make_user_encoder(bundle)
    unit = bundle.embeddings / np.linalg.norm(bundle.embeddings, axis=1, keepdims=True)
    histories = [[1, 2, 3], [9], list(range(20, 35)), [60, 1]]
    for history in histories:
        times = np.arange(len(history)) * 1_000
        user = encoder.encode([History(np.array(history), times)])[0]
        scores = unit @ user
        scores[np.array(history) - 1] = -np.inf
        expected = np.argsort(-scores)[:10] + 1
        inline = [{"item_id": f"i{item}", "timestamp": int(at)} for item, at in zip(history, times, strict=True)]
        answer = await _recommend(client, history=inline, k=10)
        assert item_ids(answer) == [f"i{item}" for item in expected]
        served = [item["score"] for item in answer.json()["items"]]
        np.testing.assert_allclose(served, scores[expected - 1], atol=1e-5)


async def test_the_next_recommendation_counts_an_acknowledged_event_in(client: httpx2.AsyncClient) -> None:
    user = _user()
    for at, item in enumerate(ALL_ITEMS[:5]):
        token = (await client.post("/events", json={"events": [event(user, item, at)]})).json()["event_token"]
        answer = await _recommend(client, user_id=user, k=NUM_ITEMS, min_event_token=token)
        assert answer.json()["history_length"] == at + 1
        assert not set(item_ids(answer)) & set(ALL_ITEMS[: at + 1])
        assert answer.json()["warnings"] == []


async def test_a_token_of_somebody_else_is_warned_about(client: httpx2.AsyncClient) -> None:
    user = _user()
    await client.post("/events", json={"events": [event(user, "i1", 1)]})
    answer = await _recommend(client, user_id=user, min_event_token="0123456789abcdef")
    assert answer.json()["warnings"][0].startswith("event_token_unknown: ")


async def test_an_inline_history_replaces_the_stored_one(client: httpx2.AsyncClient) -> None:
    user = _user()
    await client.post("/events", json={"events": [event(user, "i1", 1)]})
    both = await _recommend(client, user_id=user, history=["i2", "i3"], k=NUM_ITEMS)
    assert both.json()["history_length"] == 2
    assert "i1" in item_ids(both)
    assert item_ids(both) == item_ids(await _recommend(client, history=["i2", "i3"], k=NUM_ITEMS))


async def test_unknown_items_of_a_history_are_skipped_and_counted(client: httpx2.AsyncClient) -> None:
    answer = await _recommend(client, history=["nothing", "i2", "neither"])
    assert answer.json()["source"] == "model"
    assert answer.json()["history_length"] == 1
    assert answer.json()["warnings"] == ["unknown_history_items: 2 of 3 are not in the catalogue"]
    assert item_ids(answer) == item_ids(await _recommend(client, history=["i2"]))


@pytest.mark.parametrize("body", [{"user_id": "nobody"}, {"history": ["nothing"]}, {"history": []}])
async def test_who_is_not_known_gets_popular_items_and_is_told(
    client: httpx2.AsyncClient, body: dict[str, object]
) -> None:
    answer = await _recommend(client, k=4, exclude_item_ids=["i2"], **body)
    assert item_ids(answer) == ["i1", "i3", "i4", "i5"]
    assert answer.json()["source"] == "fallback:popular"
    assert answer.json()["history_length"] == 0


async def test_seen_items_come_back_when_asked_for(client: httpx2.AsyncClient) -> None:
    with_seen = await _recommend(client, history=["i1", "i2"], k=NUM_ITEMS, exclude_seen=False)
    without = await _recommend(client, history=["i1", "i2"], k=NUM_ITEMS)
    assert set(item_ids(with_seen)) == set(ALL_ITEMS)
    assert set(item_ids(without)) == set(ALL_ITEMS) - {"i1", "i2"}


@pytest.mark.parametrize(
    ("condition", "admissible"),
    [
        ({"category": {"any_of": ["Audio"]}}, lambda number: number % 3 == 0),
        ({"category": {"none_of": ["Audio", "Books"]}}, lambda number: number % 3 == 2),
        ({"price": {"gte": 10, "lte": 20.5}}, lambda number: 10 < number < 20),
        ({"price": {"exists": False}}, lambda number: number % 10 == 0),
        ({"stock": {"lte": 3}}, lambda number: number <= 3),
        ({"is_new": {"any_of": [True]}}, lambda number: number > 50),
        ({"tags": {"any_of": ["solo"]}}, lambda number: number % 2 == 1),
        ({"tags": {"none_of": ["odd"]}, "stock": {"gte": 55}}, lambda number: number % 2 == 0 and number >= 55),
        ({"tags": {"gte": "p", "lte": "t"}}, lambda number: number % 2 == 1),
        (
            {"or": [{"stock": {"lte": 3}}, {"not": {"price": {"exists": True}}}], "stock": {"lte": 40}},
            lambda number: number <= 3 or (number % 10 == 0 and number <= 40),
        ),
        ({"price": {"none_of": [1]}, "stock": {"lte": 10}}, lambda number: 2 <= number <= 10),
    ],
)
@pytest.mark.parametrize("who", [{"history": ["i5"]}, {"user_id": "nobody"}])
async def test_exactly_the_items_that_pass_the_filter_come_back(
    client: httpx2.AsyncClient, condition: dict[str, object], admissible: object, who: dict[str, object]
) -> None:
    answer = await _recommend(client, k=500, filter=condition, exclude_seen=False, **who)
    assert callable(admissible)
    assert sorted(item_ids(answer)) == sorted(f"i{n}" for n in range(1, NUM_ITEMS + 1) if admissible(n))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"user_id": "u", "k": 0}, "invalid_request"),
        ({"user_id": "u", "k": -1}, "invalid_request"),
        ({"user_id": "u", "k": 10**9}, "invalid_request"),
        ({"user_id": "u", "k": "10"}, "invalid_request"),
        ({"user_id": "u", "k": True}, "invalid_request"),
        ({"user_id": "u", "k": 1.0}, "invalid_request"),
        ({"user_id": 1}, "invalid_request"),
        ({"user_id": ""}, "invalid_request"),
        ({"user_id": "u" * 257}, "invalid_request"),
        ({"user_id": "u", "surprise": 1}, "invalid_request"),
        ({"history": [1]}, "invalid_request"),
        ({"history": [{"item_id": "i1", "timestamp": 884_541_000_000}]}, "invalid_request"),
        ({"user_id": "u", "filter": {"category": {}}}, "invalid_request"),
        ({"user_id": "u", "filter": {"category": {"like": "A"}}}, "invalid_request"),
        ({"user_id": "u", "filter": {"colour": {"exists": True}}}, "unknown_attribute"),
        ({"user_id": "u", "filter": {"popularity": {"gte": 1}}}, "unknown_attribute"),
        ({"user_id": "u", "filter": {"price": {"any_of": ["cheap"]}}}, "invalid_filter"),
        ({"user_id": "u", "filter": {"category": {"lte": 3}}}, "invalid_filter"),
        ({"user_id": "u", "filter": {"tags": {"gte": 1}}}, "invalid_filter"),
        ({"user_id": "u", "filter": {"or": [{"colour": {"exists": True}}]}}, "unknown_attribute"),
        ({"user_id": "u", "filter": {"and": []}}, "invalid_request"),
        ({"user_id": "u", "filter": {"not": {"not": {"price": {"gte": [1]}}}}}, "invalid_request"),
        ({"user_id": "u", "max_per": {"colour": 1}}, "unknown_attribute"),
        ({"user_id": "u", "max_per": {"category": 0}}, "invalid_request"),
        ({"user_id": "u", "seen_max_age_seconds": 0}, "invalid_request"),
        ({"user_id": "u", "scenario": "home"}, "unknown_scenario"),
        ({"user_id": "u", "cursor": "x"}, "invalid_cursor"),
        ({"user_id": "u", "cursor": "x", "filter": {}}, "invalid_request"),
        ({"user_id": "u", "filter": {"is_new": {"any_of": [1]}}}, "invalid_filter"),
        ({"user_id": "u", "return_fields": ["colour"]}, "unknown_attribute"),
        ({"user_id": "u", "model": "hatllm"}, "unknown_model"),
        ({"user_id": "u", "model": "hatllm", "mode": "generate"}, "unknown_model"),
        ({"user_id": "u", "mode": "generate"}, "mode_not_available"),
        ({"history": [], "mode": "generate"}, "mode_not_available"),
        ({"user_id": "u", "mode": "guess"}, "invalid_request"),
        ({"user_id": "u", "mode": ""}, "invalid_request"),
        ({"user_id": "u", "mode": ["generate"]}, "invalid_request"),
        ({"user_id": "u", "explain": "yes"}, "invalid_request"),
        ({"user_id": "u", "diversity": 1.5}, "invalid_request"),
        ({"user_id": "u", "timeout_ms": 0}, "invalid_request"),
    ],
)
async def test_a_mistake_is_the_callers_and_is_named(
    client: httpx2.AsyncClient, body: dict[str, object], code: str
) -> None:
    answer = await _recommend(client, **body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["detail"]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b'{"user_id": "u"', "application/json", 400, "malformed_json"),
        (b"\xff\xfe", "application/json", 400, "malformed_json"),
        (b"[" * 100_000, "application/json", 400, "malformed_json"),
        (b'{"user_id": "u", "k": ' + b"9" * 5_000 + b"}", "application/json", 400, "malformed_json"),
        (b'{"user_id": "\\ud800"}', "application/json", 422, "invalid_request"),
        (b'{"user_id": "u", "filter": {"price": {"lte": NaN}}}', "application/json", 400, "malformed_json"),
        (b"[]", "application/json", 422, "invalid_request"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"user_id=u", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b" " * 2_000_000, "application/json", 413, "payload_too_large"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_body_that_is_no_request_is_refused_in_the_right_words(
    client: httpx2.AsyncClient, content: bytes, content_type: str, status: int, code: str
) -> None:
    answer = await client.post("/recommend", content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["status"] == status


async def test_diversity_changes_the_order_but_not_the_promises(client: httpx2.AsyncClient) -> None:
    plain = item_ids(await _recommend(client, history=["i1"], k=10))
    spread = item_ids(await _recommend(client, history=["i1"], k=10, diversity=0.9))
    assert spread != plain
    assert spread[0] == plain[0]
    assert len(set(spread)) == 10
    assert "i1" not in spread


async def test_concurrent_requests_get_their_own_answers(client: httpx2.AsyncClient) -> None:
    histories = [[f"i{1 + number % NUM_ITEMS}", f"i{1 + number * 7 % NUM_ITEMS}"] for number in range(40)]
    alone = [item_ids(await _recommend(client, history=history)) for history in histories]
    together = await asyncio.gather(*(_recommend(client, history=history) for history in histories))
    assert [item_ids(answer) for answer in together] == alone
    assert max(answer.json()["timing_ms"]["queue"] for answer in together) > 0


async def test_the_versioned_path_is_the_same_endpoint(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/recommend", json={"history": ["i1"]})
    assert item_ids(answer) == item_ids(await _recommend(client, history=["i1"]))


async def test_without_redis_recommendations_go_on_and_events_are_not_acknowledged(
    settings: Settings, tmp_path: Path
) -> None:
    redis = RedisProcess(tmp_path)
    changed = settings.model_copy(update={"redis_url": redis.url, "redis_timeout_seconds": 0.5})
    async with running_app(changed) as (_, client):
        # down at the start
        assert (await client.get("/readyz")).json()["status"] == "degraded"
        answer = await _recommend(client, user_id="u", k=3, exclude_item_ids=["i1"])
        assert item_ids(answer) == ["i2", "i3", "i4"]
        assert answer.json()["source"] == "fallback:popular"
        assert answer.json()["warnings"][0].startswith("history_unavailable: ")
        refused = await client.post("/events", json={"events": [event("u", "i5", 1)]})
        assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
        assert refused.headers["retry-after"]
        assert (await _recommend(client, history=["i5"])).json()["source"] == "model"
        # up, then hanging and killed in mid-flight, then up again
        redis.start()
        assert (await client.post("/events", json={"events": [event("u", "i5", 1)]})).json()["accepted"] == 1
        redis.send(signal.SIGSTOP)
        hanging = await _recommend(client, user_id="u", timeout_ms=800)
        # the event that was acknowledged is remembered
        assert hanging.json()["source"] == "fallback:similar_items"
        redis.kill()
        assert (await client.post("/events", json={"events": [event("u", "i6", 2)]})).status_code == 503
        redis.start()
        for _ in range(50):  # it may be reading its file yet
            back = await _recommend(client, user_id="u")
            if back.json()["source"] == "model":
                break
            await asyncio.sleep(0.1)
        assert (back.json()["source"], back.json()["history_length"]) == ("model", 1)
        # not at once: reads that succeed do not prove that events are taken again
        async with asyncio.timeout(5):
            while (await client.get("/readyz")).json()["status"] != "ready":
                await asyncio.sleep(0.1)
    redis.kill()


async def test_an_answer_is_what_its_schema_says_in_the_order_of_its_schema(client: httpx2.AsyncClient) -> None:
    body = {"history": ["i1", "i2"], "k": 3, "explain": True, "return_fields": ["title", "tags", "price", "is_new"]}
    answer = await client.post("/recommend", json=body)
    checked = RecommendAnswer.model_validate_json(answer.content, strict=True)
    assert json.loads(answer.content) == json.loads(checked.model_dump_json())
    assert list(answer.json()) == list(RecommendAnswer.model_fields)
    assert list(answer.json()["items"][0]) == list(ItemAnswer.model_fields)
