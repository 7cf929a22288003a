"""Decision records: what they say, who may see them, how long and how many are kept, and that they are erased."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx2
import numpy as np
import pytest
from redis.asyncio import Redis

from model_store.people.appending import RetentionLimits
from model_store.people.owner import NUM_SHARDS, Owner, owners_of
from service.decisions.codec import decode, interactions_of, query_of, record_of
from service.decisions.record import Decision
from service.decisions.store import MAX_RECORD_BYTES, DecisionRecord, NewestDecisions, new_recommendation_id, shard_of
from service.decisions.writer import DecisionWriter
from service.errors import HistoryUnavailable
from service.people.hidden_set import HiddenItems
from service.recommend.ask import Ask, Boost, Pin, Query, RankedItem, ScenarioRef, SegmentWish
from service.recommend.candidates.filters import All, Either, Exists, Match, Not
from service.recommend.deadline import Deadline
from service.recommend.known import Known, Past
from service.recommend.ranking.answering import Answer
from service.recommend.ranking.candidates import NO_CANDIDATES
from service.recommend.trace import NOTHING
from service.redis.calls import RedisCalls, connect
from service.redis.decisions import DecisionLimits, RedisDecisionStore
from service.redis.embedded import EmbeddedRedis
from service.redis.histories import RedisHistoryStore
from service.redis.keys import decision_keys
from service.settings import ApiKey, Settings
from tests.past import Row, done, past
from tests.processes.redis_processes import RedisProcess
from tests.shop import event, item_ids, running_app

_FILTER = All(
    (Match("category", any_of=("Audio", True, 1, 1.0)), Either((Not(Exists("price")), Match("price", lte=9.5))))
)


def _user() -> str:
    return f"user-{uuid4().hex}"


def _decision(
    query: Query | None = None,
    *,
    user: str = "u1",
    interactions: Sequence[Row] = (done("i1", 10, "click"), done("i2")),
    hidden: Sequence[str] = (),
    items: Sequence[RankedItem] = (RankedItem("i5", 0.5, {}),),
    created_at: float | None = None,
) -> Decision:
    query = query or Query(user_id=user, k=2, timeout_seconds=1.0)
    served: Any = SimpleNamespace(kind="hllm", model_id="m", bundle_id="b")
    owners = owners_of(query.user_id, query.session_id)
    return Decision(
        recommendation_id=new_recommendation_id(owners[0]),
        created_at=time.time() if created_at is None else created_at,
        ask=Ask(query, owners, served, "retrieve", Deadline.after(1.0)),
        known=Known(Past(past(interactions)), hidden=HiddenItems(frozenset(hidden))),
        answer=Answer(items, "model", NO_CANDIDATES),
        trace=NOTHING,
    )


async def _shown(client: httpx2.AsyncClient, recommendation_id: str, **more: Any) -> httpx2.Response:
    """The record, once it is written."""
    deadline = time.monotonic() + 10
    while True:
        answer = await client.get(f"/recommendations/{recommendation_id}", **more)
        if answer.status_code != 404 or time.monotonic() > deadline:
            return answer
        await asyncio.sleep(0.02)


async def test_a_record_says_what_an_answer_was_made_of(client: httpx2.AsyncClient) -> None:
    user = _user()
    events = [event(user, item, at) for at, item in enumerate(["i1", "i2", "unknown", "i3"])]
    await client.post("/events", json={"events": events})
    body = {"user_id": user, "k": 4, "exclude_item_ids": ["i9"], "filter": {"category": {"any_of": ["Audio"]}}}
    answer = await client.post("/recommend", json=body)
    record = (await _shown(client, answer.json()["recommendation_id"])).json()
    assert [item["item_id"] for item in record["items"]] == item_ids(answer)
    assert [item["score"] for item in record["items"]] == [item["score"] for item in answer.json()["items"]]
    assert record["source"] == answer.json()["source"] == "model"
    assert record["versions"]["bundle"] == answer.json()["bundle"]
    assert record["versions"]["model"] == answer.json()["model"]["version"]
    history = record["history"]
    assert history["item_ids"] == ["i1", "i2", "unknown", "i3"]
    assert (history["length"], history["known"], history["read"]) == (4, 3, 3)
    assert history["timestamps"] == [0, 1, 2, 3]
    assert record["excluded"] == {"count": 1, "item_ids": ["i9"]}
    assert record["user_id"] == user
    assert record["steps"][-1] == {"step": "model", "reason": "answered"}
    assert record["timing_ms"]["total"] > 0
    assert record["warnings"] == answer.json()["warnings"]
    assert query_of(record).filter == Match("category", any_of=("Audio",))


async def test_reasons_are_kept_where_they_were_asked_for(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/recommend", json={"history": ["i1", "i2"], "k": 2, "explain": True})
    record = (await _shown(client, answer.json()["recommendation_id"])).json()
    assert record["history"]["is_own"] is True
    assert [item["reasons"] for item in record["items"]] == [item["reasons"] for item in answer.json()["items"]]
    assert record["items"][0]["reasons"]


@pytest.mark.parametrize("name", ["0" * 32, "f" * 32, "x", "é", "a" * 64, "0" * 30 + "zz"])
async def test_an_unknown_id_is_not_found(client: httpx2.AsyncClient, name: str) -> None:
    answer = await client.get(f"/recommendations/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_record_is_for_the_key_that_asked_and_for_admins(settings: Settings) -> None:
    keys = tuple(
        ApiKey(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), scopes=frozenset(scopes))
        for name, scopes in (
            ("shop", ["recommend"]),
            ("other", ["recommend"]),
            ("boss", ["recommend", "admin"]),
            ("reporter", ["events"]),
        )
    )
    async with running_app(settings.model_copy(update={"api_keys": keys})) as (_, client):

        def as_key(name: str) -> dict[str, str]:
            return {"X-API-Key": name}

        answer = await client.post("/recommend", json={"history": ["i1"], "k": 1}, headers=as_key("shop"))
        name = answer.json()["recommendation_id"]
        record = (await _shown(client, name, headers=as_key("shop"))).json()
        assert record["asked_by"] == "shop"
        statuses = {
            key: (await client.get(f"/recommendations/{name}", headers=as_key(key))).status_code
            for key in ("shop", "other", "boss", "reporter", "nobody")
        }
    assert statuses == {"shop": 200, "other": 404, "boss": 200, "reporter": 403, "nobody": 401}


async def test_records_are_erased_with_their_user_and_do_not_come_back(client: httpx2.AsyncClient) -> None:
    user = _user()
    await client.post("/events", json={"events": [event(user, "i1", 1)]})
    names = [
        (await client.post("/recommend", json={"user_id": user, "k": 1})).json()["recommendation_id"] for _ in range(3)
    ]
    for name in names:
        assert (await _shown(client, name)).status_code == 200
    # these may be written before or after the erasure
    names += [
        (await client.post("/recommend", json={"user_id": user, "k": 1})).json()["recommendation_id"] for _ in range(3)
    ]
    receipt = (await client.delete(f"/users/{user}")).json()
    (line,) = [store for store in receipt["stores"] if store["store"] == "redis:decisions"]
    assert line["records"] >= 3
    await asyncio.sleep(0.3)
    for name in names:
        assert (await client.get(f"/recommendations/{name}")).status_code == 404


async def test_without_a_place_for_records_answers_go_on(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"decision_max_mb": 0})) as (_, client):
        answer = await client.post("/recommend", json={"history": ["i1"], "k": 1})
        assert len(item_ids(answer)) == 1
        assert (await client.get(f"/recommendations/{answer.json()['recommendation_id']}")).status_code == 404


def test_what_was_asked_comes_back_as_it_was() -> None:
    query = Query(
        user_id="u1",
        k=3,
        timeout_seconds=0.25,
        filter=_FILTER,
        exclude_item_ids=("a", "b"),
        exclude_seen=False,
        seen_types=("purchase",),
        seen_max_age_seconds=60,
        asked_at=1_700_000_000.5,
        max_per={"category": 2},
        pins=(Pin("i1", 2),),
        boosts=(Boost(filter=_FILTER, multiply=1.5), Boost(item_ids=("i1",), add=0.1)),
        scenario=ScenarioRef("home", "abc"),
        diversity=0.5,
        return_fields=(),
        segment=SegmentWish("category", 1),
        asked_by="shop",
    )
    record = record_of(_decision(query, hidden=["x"]))
    assert record is not None
    document = decode(record.packed)
    found = query_of(document)
    assert found == query
    # True, 1 and 1.0 are equal, but not the same filter
    assert repr(found.filter) == repr(query.filter)
    history = interactions_of(document)
    assert history is not None
    assert list(history.rows()) == [done("i1", 10, "click"), done("i2")]
    assert document["hidden"] == {"count": 1, "item_ids": ["x"]}


def test_a_record_of_a_user_and_a_session_does_not_hold_what_either_did() -> None:
    record = record_of(_decision(Query(user_id="u1", session_id="s1", k=2, timeout_seconds=1.0)))
    assert record is not None
    document = decode(record.packed)
    assert (document["history"]["item_ids"], document["history"]["length"]) == (None, 2)
    assert len(document["history"]["sha256"]) == 64


def test_a_record_has_a_bound_and_drops_what_is_needed_least() -> None:
    generator = np.random.default_rng(0)

    def noise(count: int) -> list[str]:
        return [generator.bytes(16).hex() for _ in range(count)]

    reasons = tuple((name, 0.5) for name in noise(4_000))
    explained = record_of(_decision(items=(RankedItem("i5", 0.5, {}, reasons),)))
    assert explained is not None
    document = decode(explained.packed)
    assert document["items"] == [{"item_id": "i5", "score": 0.5, "reasons": []}]
    assert document["history"]["item_ids"] == ["i1", "i2"]
    long = record_of(_decision(interactions=tuple(done(name, 1) for name in noise(10_000))))
    assert long is not None
    assert len(long.packed) <= MAX_RECORD_BYTES
    assert decode(long.packed)["history"]["item_ids"] is None
    assert decode(long.packed)["history"]["length"] == 10_000
    hopeless = Query(user_id="u1", k=1, timeout_seconds=1.0, filter=Match("title", any_of=tuple(noise(10_000))))
    assert record_of(_decision(hopeless)) is None


async def test_records_are_bounded_in_bytes_and_in_time(own_redis: RedisProcess) -> None:
    calls = RedisCalls(connect(own_redis.url, cluster=False, timeout_seconds=5), timeout_seconds=5)
    store = RedisDecisionStore(calls, DecisionLimits(max_bytes=10_000 * NUM_SHARDS, ttl_seconds=2))
    owner = Owner("u1")
    names, begun = [], time.time() - 0.3
    for number in range(30):
        names.append(new_recommendation_id(owner))
        # of the same millisecond either might be the older one
        record = DecisionRecord(names[-1], owner, begun + number / 100, bytes([number]) * 1_000)
        assert await store.put([record]) == [True]
    found = [await store.get(name) for name in names]
    assert found[:20] == [None] * 20
    assert found[20:] == [bytes([number]) * 1_000 for number in range(20, 30)]
    assert int(await calls.command("GET", decision_keys(owner.shard)[2])) == 10_000
    await asyncio.sleep(2.1)
    assert [await store.get(name) for name in names[20:]] == [None] * 10
    assert await calls.command("KEYS", "*") == []
    await calls.aclose()


async def test_the_newest_records_of_each_shard_are_read_together(own_redis: RedisProcess) -> None:
    calls = RedisCalls(connect(own_redis.url, cluster=False, timeout_seconds=5), timeout_seconds=5)
    store = RedisDecisionStore(calls, DecisionLimits(max_bytes=1 << 30, ttl_seconds=600))
    assert await store.newest(0.0) == NewestDecisions(is_cut=False, documents=[])
    begun, busy = time.time() - 300, Owner("busy")
    quiet = next(owner for number in range(99) if (owner := Owner(f"u{number}")).shard != busy.shard)
    records = [DecisionRecord(new_recommendation_id(busy), busy, begun + at, b"%d" % at) for at in range(40)]
    records.append(DecisionRecord(new_recommendation_id(quiet), quiet, begun, b"quiet"))
    await store.put(records)
    newest = await store.newest(begun - 1)
    assert newest.is_cut
    assert sorted(newest.documents) == sorted([*(b"%d" % at for at in range(8, 40)), b"quiet"])
    later = await store.newest(begun + 30)
    assert (later.is_cut, sorted(later.documents)) == (False, [b"%d" % at for at in range(30, 40)])
    await calls.aclose()


async def test_a_record_is_read_in_one_round_trip(own_redis: RedisProcess) -> None:
    calls = RedisCalls(connect(own_redis.url, cluster=False, timeout_seconds=5), timeout_seconds=5)
    store = RedisDecisionStore(calls, DecisionLimits(max_bytes=1 << 30, ttl_seconds=60))
    owner = Owner("u1")
    name = new_recommendation_id(owner)
    assert await store.put([DecisionRecord(name, owner, time.time(), b"x")]) == [True]
    with own_redis.client() as client:

        def reads() -> int:
            return int(client.info("stats")["total_reads_processed"])

        before = reads()
        own = reads() - before
        assert await store.get(name) == b"x"
        assert reads() - before - 2 * own == 1
    await calls.aclose()


async def test_an_id_that_does_not_name_its_users_shard_is_refused(redis_server: EmbeddedRedis) -> None:
    calls = RedisCalls(connect(redis_server.url, cluster=False, timeout_seconds=5), timeout_seconds=5)
    store = RedisDecisionStore(calls, DecisionLimits(max_bytes=1 << 30, ttl_seconds=60))
    owner = Owner("u1")
    other = f"{'0' * 30}{(owner.shard + 1) % NUM_SHARDS:02x}"
    with pytest.raises(ValueError, match="shard"):
        await store.put([DecisionRecord(other, owner, time.time(), b"x")])
    assert shard_of("nothing") is None
    await calls.aclose()


async def test_a_record_that_is_written_after_its_user_was_erased_is_not_kept(redis_server: EmbeddedRedis) -> None:
    user = _user()
    client = connect(redis_server.url, cluster=False, timeout_seconds=5)
    calls = RedisCalls(client, timeout_seconds=5)
    store = RedisDecisionStore(calls, DecisionLimits(max_bytes=1 << 30, ttl_seconds=60))
    histories = RedisHistoryStore(calls, limits=RetentionLimits())
    before = record_of(_decision(user=user))
    await histories.erase(Owner(user))
    assert before is not None
    assert await store.put([before]) == [False]
    assert await store.get(before.recommendation_id) is None
    after = record_of(_decision(user=user, created_at=time.time() + 0.01))
    assert after is not None
    assert await store.put([after]) == [True]
    await histories.aclose()


class _Counts(dict[str, int]):
    def decisions_recorded(self, result: str, count: int) -> None:
        self[result] = self.get(result, 0) + count


class _Away:
    async def put(self, _: Sequence[DecisionRecord]) -> list[bool]:
        raise HistoryUnavailable("it is away")

    async def get(self, _: str) -> bytes | None:
        raise HistoryUnavailable("it is away")


async def test_the_writer_never_waits_and_counts_what_it_drops() -> None:
    counts = _Counts()
    writer = DecisionWriter(_Away(), counts, max_waiting=10)
    for _ in range(1_000):
        writer.record(_decision())
    assert counts == {"queue_full": 990}
    writer.start()
    await writer.aclose()
    assert counts == {"queue_full": 990, "unavailable": 10}


async def test_a_service_that_ends_writes_what_waits(settings: Settings, redis_server: EmbeddedRedis) -> None:
    async with running_app(settings) as (_, client):
        answers = [await client.post("/recommend", json={"history": ["i1"], "k": 1}) for _ in range(20)]
    async with running_app(settings) as (_, client):
        for answer in answers:
            assert (await client.get(f"/recommendations/{answer.json()['recommendation_id']}")).status_code == 200
    async with Redis.from_url(redis_server.url) as one:
        assert await one.ttl(decision_keys(shard_of(answers[0].json()["recommendation_id"]) or 0)[0]) > 0
