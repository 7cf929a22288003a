"""The application under supervision: stuck and dead models, limits per key and address, browsers, and readiness."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from service.engine.served_bundle import ServedBundle
from service.settings import ApiKey, Settings
from tests.processes.redis_processes import RedisProcess
from tests.shop import event, running_app

# Two seconds are promised; what this machine may add is not for the default tests to measure: that the promise adds up
# is tested in test_watchdog.py, and with real processes in test_faults.py.
WITHIN_SECONDS = 4.0
ASK = {"history": ["i1"], "k": 3}


async def _status_within(client: httpx2.AsyncClient, status: int, seconds: float = WITHIN_SECONDS) -> dict[str, object]:
    """The document of ``/readyz`` once it answers with a status."""
    ends_at = time.monotonic() + seconds
    while (answer := await client.get("/readyz")).status_code != status:
        assert time.monotonic() < ends_at, answer.text
        await asyncio.sleep(0.02)
    return answer.json()


@asynccontextmanager
async def _stuck(app: FastAPI) -> AsyncIterator[None]:
    """The live encoder does not return inside the block."""
    served: ServedBundle = app.state.service.bundles.get()
    encode, gate = served.encoder.encode, threading.Event()

    def hold(histories: object) -> object:
        assert gate.wait(60)
        return encode(histories)  # type: ignore[arg-type]

    object.__setattr__(served.encoder, "encode", hold)
    try:
        yield
    finally:
        gate.set()
        object.__delattr__(served.encoder, "encode")


@pytest.mark.parametrize("fallback", ["on", "off"])
async def test_a_stuck_model_makes_it_not_ready_within_two_seconds_and_hung_later(
    settings: Settings, fallback: str
) -> None:
    own = settings.model_copy(update={"fallback": fallback, "model_hung_seconds": 3.0})
    async with running_app(own) as (app, client):
        assert (await client.get("/readyz")).status_code == 200
        async with _stuck(app):
            asked = asyncio.create_task(client.post("/recommend", json={**ASK, "timeout_ms": 500}))
            document = await _status_within(client, 503)
            assert "has not answered for" in str(document["checks"])
            # the one that was waiting, and one that comes now, which is told at once
            assert (await asked).status_code == (200 if fallback == "on" else 504)
            started = time.monotonic()
            answer = await client.post("/recommend", json=ASK)
            assert time.monotonic() - started < 5  # who waits, waits for ten
            assert answer.status_code == (200 if fallback == "on" else 503)
            if fallback == "on":
                assert answer.json()["source"].startswith("fallback:")
            else:
                assert answer.json()["code"] == "model_unavailable"
            assert (await client.get("/livez")).status_code == 200
            text = (await client.get("/metrics")).text
            assert "hatstand_ready 0.0" in text
            assert 'hatstand_requests_shed_total{reason="model_unavailable"}' in text
            ends_at = time.monotonic() + 5
            while (await client.get("/livez")).status_code == 200:
                assert time.monotonic() < ends_at
                await asyncio.sleep(0.05)
        await _status_within(client, 200)
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/recommend", json=ASK)).json()["source"] == "model"


async def test_an_encoder_that_wants_to_end_the_process_costs_one_answer_its_model_and_nothing_else(
    settings: Settings,
) -> None:
    async with running_app(settings) as (app, client):
        served: ServedBundle = app.state.service.bundles.get()

        def leave(_: object) -> object:
            raise SystemExit(3)

        object.__setattr__(served.encoder, "encode", leave)
        answer = await client.post("/recommend", json=ASK)
        object.__delattr__(served.encoder, "encode")
        assert (answer.status_code, answer.json()["source"][:9]) == (200, "fallback:")
        await _status_within(client, 200)
        assert (await client.post("/recommend", json=ASK)).json()["source"] == "model"


@pytest.mark.parametrize("is_required", [False, True])
async def test_redis_may_be_required(settings: Settings, tmp_path: Path, is_required: bool) -> None:
    server = RedisProcess(tmp_path)
    server.start()
    own = settings.model_copy(update={"redis_url": server.url, "redis_required": is_required})
    async with running_app(own) as (_, client):
        assert (await client.get("/readyz")).json()["status"] == "ready"
        server.kill()
        document = await _status_within(client, 503 if is_required else 200)
        assert document["status"] == ("not_ready" if is_required else "degraded")
        assert "history store" in str(document["checks"])
        server.start()
        ends_at = time.monotonic() + WITHIN_SECONDS
        while (await client.get("/readyz")).json()["status"] != "ready":
            assert time.monotonic() < ends_at
            await asyncio.sleep(0.02)
    server.kill()


def _key(name: str, *scopes: str, **more: int) -> ApiKey:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return ApiKey.model_validate({"name": name, "sha256": digest, "scopes": scopes, **more})


async def test_each_key_has_its_own_rate_which_two_replicas_share(settings: Settings) -> None:
    name = f"slow-{time.time()}"
    keys = (_key(name, "recommend", requests_per_minute=6), _key("free", "recommend", requests_per_minute=0))
    own = settings.model_copy(update={"api_keys": keys, "rate_limit_per_minute": 1, "rate_limit_burst": 3})
    async with running_app(own) as (_, one), running_app(own) as (_, other):
        answers = [
            await client.post("/recommend", json=ASK, headers={"x-api-key": name})
            for client in (one, other, one, other)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
        assert answers[0].headers["ratelimit-policy"] == '"minute";q=6;w=60'
        refused = answers[-1]
        assert refused.json()["code"] == "rate_limited"
        assert 8 <= int(refused.headers["retry-after"]) <= 10
        assert refused.json()["retry_after_seconds"] == int(refused.headers["retry-after"])
        for _ in range(10):
            free = await one.post("/recommend", json=ASK, headers={"x-api-key": "free"})
            assert free.status_code == 200
            assert "ratelimit" not in free.headers
        assert (await other.get("/readyz", headers={"x-api-key": name})).status_code == 200
        assert 'hatstand_rate_limited_total{limit="key"} 1.0' in (await other.get("/metrics")).text


async def test_without_keys_addresses_are_counted_if_that_is_set(settings: Settings, tmp_path: Path) -> None:
    server = RedisProcess(tmp_path)  # of its own, as all tests have one address
    server.start()
    own = settings.model_copy(
        update={"redis_url": server.url, "rate_limit_anonymous_per_minute": 6, "rate_limit_burst": 2}
    )
    try:
        async with running_app(own) as (_, client):
            statuses = [(await client.post("/recommend", json=ASK)).status_code for _ in range(3)]
            assert statuses == [200, 200, 429]
            assert 'hatstand_rate_limited_total{limit="address"} 1.0' in (await client.get("/metrics")).text
    finally:
        server.kill()


async def test_no_more_requests_than_set_are_answered_at_once(settings: Settings) -> None:
    own = settings.model_copy(update={"max_in_flight": 3})
    async with running_app(own) as (app, client), _stuck(app):
        asked = [asyncio.create_task(client.post("/recommend", json={**ASK, "timeout_ms": 2_000})) for _ in range(3)]
        await asyncio.sleep(0.2)
        answer = await client.post("/recommend", json=ASK)
        assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
        assert answer.headers["retry-after"] == "1"
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code in {200, 503}
        await asyncio.gather(*asked)
        assert "hatstand_requests_in_flight 1.0" in (await client.get("/metrics")).text


async def test_a_full_queue_says_when_to_come_back(settings: Settings) -> None:
    own = settings.model_copy(update={"fallback": "off", "queue_max_users": 2, "batch_max_users": 1})
    async with running_app(own) as (app, client), _stuck(app):
        asked = []
        for _ in range(6):
            asked.append(asyncio.create_task(client.post("/recommend", json={**ASK, "timeout_ms": 2_000})))
            # One after the other: the first one is with the model, and no more in the queue, when the next one comes.
            await asyncio.sleep(0.05)
        answers = await asyncio.gather(*asked)
        counts = sorted(answer.status_code for answer in answers)
        assert counts == [429] * 3 + [504] * 3
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)


async def test_pages_of_other_sites_may_ask_only_if_they_are_named(settings: Settings) -> None:
    shop, evil = "https://shop.example", "https://evil.example"
    async with running_app(settings.model_copy(update={"cors_origins": (shop,)})) as (_, client):
        preflight = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        allowed = await client.options("/recommend", headers={"origin": shop, **preflight})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, shop)
        answer = await client.post("/recommend", json=ASK, headers={"origin": shop})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, shop)
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        # also a refusal may be read
        refused = await client.post("/recommend", content=b" " * 2_000_000, headers={"origin": shop})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (413, shop)
        denied = await client.options("/recommend", headers={"origin": evil, **preflight})
        assert "access-control-allow-origin" not in denied.headers
        for path in ("/recommend", "/admin/rollback"):
            answer = await client.post(path, json=ASK, headers={"origin": evil})
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")
        assert (await client.get("/items/i1", headers={"origin": evil})).status_code == 200
        own_page = await client.post("/recommend", json=ASK, headers={"origin": "http://localhost"})
        assert own_page.status_code == 200


async def test_the_watch_goes_on_while_events_come_in(settings: Settings) -> None:
    async with running_app(settings) as (_, client):
        for number in range(5):
            await client.post("/events", json={"events": [event("watched", "i1", number)]})
            await client.post("/recommend", json={"user_id": "watched"})
        text = (await client.get("/metrics")).text
        for name in (
            'hatstand_recommend_duration_seconds_count{scenario="none",source="model"} 5.0',
            "hatstand_queue_wait_seconds_count 5.0",
            "hatstand_ready 1.0",
            "hatstand_bundles_draining 0.0",
            'hatstand_bundle_refused{kind="hllm"} 0.0',
            'hatstand_bundle_swaps_total{result="loaded"} 1.0',
        ):
            assert name in text, name
        for name in (
            "hatstand_event_loop_lag_seconds_count",
            'hatstand_bundle_age_seconds{kind="hllm"}',
            'hatstand_bundle_load_seconds{kind="hllm"}',
            "hatstand_store_last_look_timestamp_seconds",
            "hatstand_model_last_success_timestamp_seconds 1",
            'hatstand_memory_available_bytes{where="cpu"}',
            "hatstand_queue_seconds",
        ):
            assert name in text, name
