"""Lists for pages are kept and erased with all else that Redis keeps of somebody, in a server and in a cluster."""

import time
from uuid import uuid4

from model_store.people.appending import RetentionLimits
from model_store.people.owner import Owner
from service.people.history_store import ErasedStore, Event
from service.redis.calls import RedisCalls, connect
from service.redis.histories import RedisHistoryStore
from service.redis.keys import owner_key
from service.redis.lists import RedisRankedLists
from tests.shop import Address


async def test_with_a_user_go_their_lists_and_those_of_their_sessions(address: Address) -> None:
    calls = RedisCalls(connect(address[0], cluster=address[1], timeout_seconds=5), timeout_seconds=10)
    histories, lists = RedisHistoryStore(calls, limits=RetentionLimits()), RedisRankedLists(calls, ttl_seconds=60)
    name, asked_at = uuid4().hex, time.time()
    user, session, other = Owner(name), Owner(name, is_session=True), Owner(f"other-{name}")
    await histories.append([Event("e1", session, "i1", 1)])
    await histories.merge(session, user)
    for owner in (user, session, other):
        for number in range(2):
            assert await lists.keep(owner, f"r{number}", b"list", asked_at=asked_at)
    assert ErasedStore("redis:pages", 4) in await histories.erase(user)
    for owner in (user, session):
        assert await lists.read(owner, "r0") is None
        assert await calls.command("EXISTS", owner_key(owner, "pages")) == 0
        assert not await lists.keep(owner, "r0", b"list", asked_at=asked_at)
    assert await lists.read(other, "r0") == b"list"
    assert ErasedStore("redis:pages", 2) in await histories.erase(other)
    await histories.aclose()
