"""Histories in a real Redis and in a real three-master Redis Cluster: the same promises."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from model_store.people.appending import RetentionLimits
from model_store.people.owner import Owner
from service.errors import HistoryUnavailable
from service.people.history_store import Event
from service.redis.calls import RedisCalls, connect
from service.redis.embedded import EmbeddedRedis
from service.redis.histories import RedisHistoryStore
from tests.processes.redis_processes import RedisProcess
from tests.shop import Address


@asynccontextmanager
async def opened(address: Address, limits: RetentionLimits | None = None) -> AsyncIterator[RedisHistoryStore]:
    url, is_cluster = address
    client = connect(url, cluster=is_cluster, timeout_seconds=5)
    store = RedisHistoryStore(RedisCalls(client, timeout_seconds=10), limits=limits or RetentionLimits())
    try:
        yield store
    finally:
        await store.aclose()


def _user() -> Owner:
    return Owner(f"user-{uuid4().hex}")


def _event(owner: Owner, name: str, timestamp: int = 1) -> Event:
    return Event(event_id=name, owner=owner, item_id=f"item-{name}", timestamp=timestamp)


async def test_a_late_event_goes_to_its_place_and_equal_times_keep_the_order_of_arrival(address: Address) -> None:
    user = _user()
    async with opened(address) as store:
        await store.append([_event(user, "c", 30), _event(user, "a", 10)])
        await store.append([_event(user, "b", 20), _event(user, "a2", 10)])
        history = await store.read(user)
    assert history.interactions.item_ids == ("item-a", "item-a2", "item-b", "item-c")


async def test_the_same_event_id_again_is_a_duplicate_and_changes_nothing(address: Address) -> None:
    user = _user()
    async with opened(address) as store:
        first = await store.append([_event(user, "a", 10), _event(user, "a", 99)])
        again = await store.append([_event(user, "a", 50)])
        history = await store.read(user)
    assert (first.accepted, first.duplicates) == (1, 1)
    assert (again.accepted, again.duplicates) == (0, 1)
    assert list(history.interactions.rows()) == [("item-a", 10, "click")]


async def test_event_ids_of_different_users_do_not_meet(address: Address) -> None:
    one, other = _user(), _user()
    async with opened(address) as store:
        assert (await store.append([_event(one, "a"), _event(other, "a")])).accepted == 2


async def test_an_event_comes_back_as_it_was_sent(address: Address) -> None:
    event = Event(
        event_id="é1",
        owner=Owner(f"}}{{ ünï:\n{uuid4().hex}"),
        item_id="i\u2028{}",
        timestamp=4_102_444_800,
        type="purchase",
        recommendation_id="r1",
        properties={"price": 3.5, "nested": [{"a": None}]},
    )
    async with opened(address) as store:
        await store.append([event])
        assert await store.events(event.owner) == [event]


async def test_a_batch_of_many_users_is_spread_and_nothing_is_lost(address: Address) -> None:
    users = [_user() for _ in range(200)]
    async with opened(address) as store:
        outcome = await store.append([_event(user, "a", at) for at, user in enumerate(users)])
        histories = await asyncio.gather(*(store.read(user, event_token=outcome.event_token) for user in users))
    assert outcome.accepted == 200
    assert [int(history.interactions.timestamps[0]) for history in histories] == list(range(200))
    assert all(history.includes_token for history in histories)


async def test_a_cluster_keeps_users_on_all_of_its_masters(cluster: list[RedisProcess]) -> None:
    async with opened((cluster[0].url, True)) as store:
        await store.append([_event(_user(), "a") for _ in range(60)])
    sizes = [node.client().dbsize() for node in cluster]
    assert all(size > 0 for size in sizes)


async def test_a_server_that_forgot_the_script_is_given_it_again(address: Address) -> None:
    url, is_cluster = address
    user = _user()
    async with opened(address) as store:
        await store.append([_event(user, "a")])
        client = connect(url, cluster=is_cluster, timeout_seconds=5)
        await client.script_flush()
        await client.aclose()
        assert (await store.append([_event(user, "b")])).accepted == 1


async def test_an_erased_user_is_gone_and_the_receipt_says_what_was_there(address: Address) -> None:
    user, neighbour = _user(), _user()
    async with opened(address) as store:
        await store.append([_event(user, "a"), _event(user, "b"), _event(neighbour, "a")])
        receipt = await store.erase(user)
        assert await store.events(user) == []
        assert len(await store.events(neighbour)) == 1
        assert all(line.records == 0 for line in await store.erase(user))
    assert {line.store: line.records for line in receipt} == {
        "redis:history": 2,
        "redis:event_ids": 3,  # two, and the batch's token
        "redis:event_log": 2,
        "redis:decisions": 0,
        "redis:pages": 0,
        "redis:sessions": 0,
    }


async def test_a_history_that_is_known_is_not_parsed_again_and_any_other_is(address: Address) -> None:
    user, other = _user(), _user()
    async with opened(address, RetentionLimits(max_events=3)) as store:
        versions = [(await store.read(user)).version]

        async def changed() -> None:
            read = await store.read(user, known_version=versions[-1])
            assert not read.is_unchanged
            kept = await store.events(user)
            assert list(read.interactions.rows()) == [(one.item_id, one.timestamp, one.type) for one in kept]
            again = await store.read(user, known_version=read.version)
            assert (again.is_unchanged, len(again.interactions), again.version) == (True, 0, read.version)
            assert read.version not in versions
            versions.append(read.version)

        for event in (_event(user, "b", 20), _event(user, "a", 10), _event(user, "c", 20)):  # the second one is late
            await store.append([event])
            await changed()
        await store.append([_event(user, "a", 99)])  # known
        assert (await store.read(user, known_version=versions[-1])).is_unchanged
        await store.append([_event(user, "d", 30)])  # the oldest one goes
        await changed()
        # the same things happened to somebody else, in another order of arrival
        await store.append([_event(other, "c", 20), _event(other, "b", 20), _event(other, "d", 30)])
        assert not (await store.read(other, known_version=versions[-1])).is_unchanged
        await store.erase(user)
        assert not len((await store.read(user, known_version=versions[-1])).interactions)
        assert (await store.read(user)).version == versions[0]


async def test_a_token_is_known_to_its_users_only(address: Address) -> None:
    user, other = _user(), _user()
    async with opened(address) as store:
        token = (await store.append([_event(user, "a")])).event_token
        assert (await store.read(user, event_token=token)).includes_token is True
        assert (await store.read(other, event_token=token)).includes_token is False
        assert (await store.read(user)).includes_token is None


async def test_both_keys_expire_together(redis_server: EmbeddedRedis) -> None:
    user = _user()
    async with opened((redis_server.url, False), RetentionLimits(ttl_seconds=1)) as store:
        await store.append([_event(user, "a")])
        await asyncio.sleep(1.2)
        assert await store.events(user) == []
        assert (await store.append([_event(user, "a")])).accepted == 1


async def test_a_redis_that_is_not_there_is_said_to_be_unavailable_in_time() -> None:
    async with opened(("redis://127.0.0.1:1/0", False)) as store:
        for call in (
            store.ping(),
            store.read(Owner("u")),
            store.append([_event(Owner("u"), "a")]),
            store.erase(Owner("u")),
        ):
            with pytest.raises(HistoryUnavailable):
                await call


async def test_a_full_redis_refuses_the_batch(tmp_path: Path) -> None:
    server = RedisProcess(tmp_path, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
    server.start()
    try:
        async with opened((server.url, False)) as store:
            with pytest.raises(HistoryUnavailable, match="append events"):
                await store.append([_event(Owner("u"), "a")])
    finally:
        server.kill()


async def test_a_history_at_its_limit_keeps_its_beginning_for_a_while(redis_server: EmbeddedRedis) -> None:
    one_by_one, at_once = _user(), _user()
    lengths, beginnings = [], []
    async with opened((redis_server.url, False), RetentionLimits(max_events=30)) as store:
        for number in range(47):
            await store.append([_event(one_by_one, str(number), number)])
            kept = [int(event.event_id) for event in await store.events(one_by_one)]
            assert kept == list(range(kept[0], number + 1))
            lengths.append(len(kept))
            beginnings.append(kept[0])
        await store.append([_event(at_once, str(number), number) for number in range(47)])
        assert [int(event.event_id) for event in await store.events(at_once)] == kept
    assert set(lengths[30:]) == {30, 31, 32}
    assert sorted(set(beginnings[30:])) == [0, 3, 6, 9, 12, 15]


_LIMITS = RetentionLimits(max_events=4, max_remembered=7, ttl_seconds=60)
_BATCHES = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=6), min_size=1, max_size=6
)


class _Reference:
    """What the script promises, written the long way."""

    def __init__(self) -> None:
        self.history: list[tuple[int, int, str]] = []
        self.remembered: dict[str, int] = {}
        self.arrival = 0

    def append(self, events: list[tuple[int, int]], token: str) -> int:
        accepted = 0
        for name, timestamp in events:
            self.arrival += 1
            if f"e{name}" not in self.remembered:
                self.remembered[f"e{name}"] = self.arrival
                self.history.append((timestamp, self.arrival, str(name)))
                accepted += 1
        self.arrival += 1
        self.remembered[f"t{token}"] = self.arrival
        self.history = sorted(self.history)[-_LIMITS.max_events :]
        newest = sorted(self.remembered, key=self.remembered.__getitem__)[-_LIMITS.max_remembered :]
        self.remembered = {name: self.remembered[name] for name in newest}
        self.arrival = max(self.remembered.values())
        return accepted


@settings(max_examples=60, deadline=None)
@given(batches=_BATCHES)
async def test_the_script_orders_deduplicates_and_caps(
    redis_server: EmbeddedRedis, batches: list[list[tuple[int, int]]]
) -> None:
    user, reference = _user(), _Reference()
    async with opened((redis_server.url, False), _LIMITS) as store:
        for batch in batches:
            outcome = await store.append([_event(user, str(name), timestamp) for name, timestamp in batch])
            assert outcome.accepted == reference.append(batch, outcome.event_token)
            assert outcome.accepted + outcome.duplicates == len(batch)
            kept = [(event.timestamp, event.event_id) for event in await store.events(user)]
            assert kept == [(timestamp, name) for timestamp, _, name in reference.history]
    async with Redis.from_url(redis_server.url) as client:
        sizes = [await client.zcard(key) for key in await client.keys(f"*:{_tag(user)}:*")]
    assert max(sizes) <= _LIMITS.max_remembered


@settings(max_examples=25, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=20, unique_by=lambda e: e[0]
    ),
    data=st.data(),
)
async def test_sending_events_again_in_any_split_changes_nothing(
    redis_server: EmbeddedRedis, events: list[tuple[int, int]], data: st.DataObject
) -> None:
    user = _user()
    batch = [_event(user, str(name), timestamp) for name, timestamp in events]
    async with opened((redis_server.url, False)) as store:
        await store.append(batch)
        before = await store.events(user)
        cut = data.draw(st.integers(1, len(batch)))
        again = await store.append(batch[:cut])
        assert (again.accepted, again.duplicates) == (0, cut)
        assert await store.events(user) == before


def _tag(user: Owner) -> str:
    return base64.urlsafe_b64encode(user.id.encode()).decode().rstrip("=")
