"""A Redis that answers but takes no events, as one that is full, is not whole; readiness says so, and turns back."""

import asyncio

import pytest

from service.errors import HistoryUnavailable
from service.settings import Settings
from tests.processes.redis_processes import RedisProcess
from tests.shop import event, running_app


async def test_readiness_tells_of_refused_events_until_they_are_taken_again(
    settings: Settings, own_redis: RedisProcess
) -> None:
    async with running_app(settings.model_copy(update={"redis_url": own_redis.url})) as (app, client):
        service = app.state.service
        with own_redis.client() as redis:
            redis.config_set("maxmemory", 1)
            redis.config_set("maxmemory-policy", "noeviction")
            refused = await client.post("/events", json={"events": [event("full", "i1", 1)]})
            assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
            assert redis.ping()
            with pytest.raises(HistoryUnavailable, match="does not take events"):
                await service.histories.ping()
            await service.health.look_at_histories()
            answer = (await client.get("/readyz")).json()
            assert (answer["status"], "does not take" in answer["checks"]["history_store"]) == ("degraded", True)
            redis.config_set("maxmemory", 0)
            assert (await client.post("/events", json={"events": [event("full", "i1", 1)]})).json()["accepted"] == 1
            await service.histories.ping()


async def test_a_refusal_is_forgotten_where_no_more_events_come(settings: Settings, own_redis: RedisProcess) -> None:
    async with running_app(settings.model_copy(update={"redis_url": own_redis.url})) as (app, client):
        with own_redis.client() as redis:
            redis.config_set("maxmemory", 1)
            await client.post("/events", json={"events": [event("full", "i1", 1)]})
        await asyncio.sleep(1.6)
        await app.state.service.histories.ping()
