"""A process needs no Redis to leave out what it has hidden itself."""

import asyncio

import httpx2
import pytest

from service.people.hidden_set import HiddenItems
from service.redis.calls import RedisCalls, connect
from service.redis.hidden import RedisHiddenItems
from service.settings import Settings
from tests.processes.redis_processes import RedisProcess
from tests.shop import NUM_ITEMS, item_ids, running_app


async def _recommend(client: httpx2.AsyncClient, **more: object) -> list[str]:
    body = {"history": ["i1"], "k": NUM_ITEMS, **more}
    return item_ids(await client.post("/recommend", json=body))


async def test_whoever_has_no_time_to_ask_redis_gets_no_hidden_item_either(
    settings: Settings, own_redis: RedisProcess
) -> None:
    async with running_app(settings.model_copy(update={"redis_url": own_redis.url})) as (_, client):
        assert "i5" in await _recommend(client)
        assert (await client.post("/admin/items/i5/hide")).status_code == 200
        assert "i5" not in await _recommend(client, timeout_ms=1)
        assert (await client.post("/admin/items/i6/hide")).status_code == 200
        own_redis.kill()
        assert not {"i5", "i6"} & set(await _recommend(client))


async def test_what_is_hidden_while_a_question_is_answered_stays_hidden(
    own_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was made before, and comes after: it must not undo what was acknowledged in between."""
    calls = RedisCalls(connect(own_redis.url, cluster=False, timeout_seconds=2), timeout_seconds=2)
    hidden = RedisHiddenItems(calls)
    await hidden.hide("i1")
    has_answered, may_go_on = asyncio.Event(), asyncio.Event()
    run = calls.run

    async def slow_run(script: object, *more: object) -> object:
        answer = await run(script, *more)  # type: ignore[arg-type]
        if asyncio.current_task() is reading:
            has_answered.set()
            await may_go_on.wait()
        return answer

    monkeypatch.setattr(calls, "run", slow_run)
    reading: asyncio.Task[HiddenItems] = asyncio.create_task(hidden.current(within=2))
    await has_answered.wait()
    await hidden.hide("i2")
    may_go_on.set()
    assert (await reading).item_ids == {"i1", "i2"}
    own_redis.kill()
    assert (await hidden.current(within=0.1)).item_ids == {"i1", "i2"}
    await calls.aclose()
