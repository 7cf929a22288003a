"""Replays: the same list from a decision record, whichever step answered, or the first place where it is another."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from service.decisions.codec import decode, record_of
from service.decisions.record import Decision
from service.decisions.replay import app
from service.decisions.replaying import Replay, replay_record
from service.engine.batcher import EncodeBatcher
from service.engine.loading import Loader
from service.engine.served_bundle import ServedBundle
from service.people.hidden_set import HiddenItems
from service.people.remembered import LastKnown
from service.recommend.ask import Boost, Pin, Query, ScenarioRef, SegmentWish
from service.recommend.candidates.filters import Match, Not
from service.recommend.candidates.segments import Segments
from service.recommend.recommender import Recommender
from service.redis.embedded import EmbeddedRedis
from service.settings import Settings
from tests.past import done, past
from tests.service.engine.test_batcher import Counts
from tests.service.recommend.pipelines import Shelf, cripple, make_recommender, with_wrong_index
from tests.shop import event, item_ids, running_app

ROOT = Path(__file__).parents[3]


class Records(list[dict[str, Any]]):
    """A sink that keeps documents as they would come back from Redis."""

    def record(self, decision: Decision) -> None:
        kept = record_of(decision)
        assert kept is not None
        self.append(decode(kept.packed))


@pytest.fixture(scope="module")
def open_bundle(both_root: Path) -> Callable[[str], ServedBundle]:
    opened: dict[str, ServedBundle] = {}
    loader = Loader(ModelStore(both_root), device="cpu", state_bytes=1 << 20, reserve_bytes=-1)

    def open_one(bundle_id: str) -> ServedBundle:
        if bundle_id not in opened:
            opened[bundle_id] = loader.open(bundle_id)
        return opened[bundle_id]

    return open_one


@pytest.fixture(params=["hllm", "hatllm"])
def served(request: pytest.FixtureRequest, both_root: Path, open_bundle: Callable[[str], ServedBundle]) -> ServedBundle:
    return open_bundle(ModelStore(both_root).live().bundles[request.param])


@asynccontextmanager
async def recording(served: ServedBundle, **more: Any) -> AsyncIterator[tuple[Recommender, Records]]:
    batcher = EncodeBatcher(max_users=4, max_wait_seconds=0, max_waiting=64, observer=Counts())
    batcher.start()
    records = Records()
    try:
        yield make_recommender(served, batcher, decisions=records, **more), records
    finally:
        await batcher.aclose()


def _query(**more: Any) -> Query:
    history = past([done(f"i{number}", number) for number in (3, 14, 15)])
    return Query(**{"user_id": None, "k": 8, "timeout_seconds": 30, "history": history, **more})


class Hidden:
    """What operators have hidden."""

    def __init__(self, *ids: str) -> None:
        self.ids = frozenset(ids)

    async def current(self, *, within: float) -> HiddenItems:
        del within
        return HiddenItems(self.ids)


@pytest.mark.parametrize(
    "query",
    [
        _query(),
        _query(exclude_item_ids=["i7", "i9"], exclude_seen=False),
        _query(filter=Match("category", any_of=("Audio",)), diversity=0.7),
        _query(filter=Not(Match("price", gte=30)), max_per={"category": 2}, paginate=True),
        _query(
            pins=(Pin("i20", 1),), boosts=(Boost(item_ids=("i30", "i31"), add=0.5),), scenario=ScenarioRef("a", "1")
        ),
        _query(k=60, explain=True),
        _query(history=past([done("i3", 5, "view"), done("i4", 6, "purchase")]), seen_types=("purchase",)),
        _query(history=past([done("nothing known")]), segment=SegmentWish("category", "Books")),
        _query(history=past([])),
    ],
    ids=["plain", "excluded", "filter", "caps", "scenario", "all", "seen", "segment", "nobody"],
)
async def test_the_same_list_is_made_again(
    served: ServedBundle, open_bundle: Callable[[str], ServedBundle], query: Query
) -> None:
    async with recording(served, hidden=Hidden("i11", "i12")) as (recommender, records):
        answer = await recommender.recommend(query)
    result = await replay_record(records[0], open_bundle)
    assert [item for item, _ in result.recorded] == [item.item_id for item in answer.items]
    assert result.first_difference is None
    assert [item for item, _ in result.replayed] == [item for item, _ in result.recorded]
    assert result.largest_score_difference < 1e-5


async def test_generated_titles_are_generated_again(
    both_root: Path, open_bundle: Callable[[str], ServedBundle]
) -> None:
    served = open_bundle(ModelStore(both_root).live().bundles["hatllm"])
    async with recording(served) as (recommender, records):
        await recommender.recommend(_query(mode="generate", diversity=0.3))
        await recommender.recommend(_query(mode="generate", filter=Match("stock", lte=5)))
    for record in records:
        assert record["source"] == "model"
        assert (await replay_record(record, open_bundle)).first_difference is None


async def test_a_history_that_was_kept_or_late_gives_the_same_list(
    served: ServedBundle, open_bundle: Callable[[str], ServedBundle]
) -> None:
    """The embedding comes from what is kept of the user, and is made anew in the replay."""
    shelf = Shelf()
    shelf.add("u", "i1", "i2", "unknown", "i3")
    async with recording(served, histories=shelf) as (recommender, records):
        for _ in range(2):
            await recommender.recommend(_query(history=None, user_id="u"))
        shelf.add("u", "i4")
        await recommender.recommend(_query(history=None, user_id="u", k=60))
    for record in records:
        assert (await replay_record(record, open_bundle)).first_difference is None
    assert [record["history"]["length"] for record in records] == [4, 4, 5]


async def test_every_step_that_answered_is_run_again(
    both_root: Path, open_bundle: Callable[[str], ServedBundle]
) -> None:
    bundle_id = ModelStore(both_root).live().bundles["hllm"]
    loader = Loader(ModelStore(both_root), device="cpu", state_bytes=0, reserve_bytes=-1)
    broken = loader.open(bundle_id)
    shelf, last_known, segments = Shelf(), LastKnown(max_bytes=1 << 20, max_age_seconds=100), Segments()
    shelf.add("u", "i1", "i2", "i3")
    stored = _query(history=None, user_id="u")
    async with recording(broken, histories=shelf, last_known=last_known, segments=segments) as (recommender, records):
        await recommender.recommend(stored)  # the model
        cripple(broken.encoder)
        shelf.add("u", "i4")
        await recommender.recommend(stored)  # the last embedding
        await recommender.recommend(_query())  # similar items
        shelf.is_down = True
        await recommender.recommend(stored)  # the last embedding, and the last known history
        await recommender.recommend(_query(history=None, user_id="stranger"))
    async with recording(with_wrong_index(broken), segments=segments) as (recommender, more):
        await recommender.recommend(_query())  # popular in the segment
    records += more
    assert [record["source"] for record in records] == [
        "model",
        "fallback:last_embedding",
        "fallback:similar_items",
        "fallback:last_embedding",
        "fallback:popular",
        "fallback:segment_popular",
    ]
    for record in records:
        result = await replay_record(record, open_bundle)
        assert [item for item, _ in result.replayed] == [item for item, _ in result.recorded], record["source"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_asked_is_answered_again(
    both_root: Path, open_bundle: Callable[[str], ServedBundle], data: st.DataObject
) -> None:
    items = st.sampled_from([f"i{number}" for number in range(1, 61)])
    query = _query(
        history=past([done(item) for item in data.draw(st.lists(items | st.just("unknown"), max_size=6))]),
        k=data.draw(st.integers(1, 70)),
        exclude_item_ids=data.draw(st.lists(items, max_size=5)),
        exclude_seen=data.draw(st.booleans()),
        diversity=data.draw(st.sampled_from([0.0, 0.4, 1.0])),
        max_per=data.draw(st.sampled_from([{}, {"category": 3}])),
        filter=data.draw(
            st.sampled_from([None, Match("category", any_of=("Books", "Audio")), Not(Match("stock", lte=40))])
        ),
    )
    hidden = Hidden(*data.draw(st.lists(items, max_size=5)))
    kind = data.draw(st.sampled_from(["hllm", "hatllm"]))

    async def both() -> Replay:
        served = open_bundle(ModelStore(both_root).live().bundles[kind])
        async with recording(served, hidden=hidden) as (recommender, records):
            await recommender.recommend(query)
        return await replay_record(records[0], open_bundle)

    result = asyncio.run(both())
    assert [item for item, _ in result.replayed] == [item for item, _ in result.recorded]


def test_the_first_difference_is_named_and_ties_may_change_places() -> None:
    recorded = [("a", 0.9), ("b", 0.5), ("c", 0.50001), ("d", 0.1)]
    tied = [("a", 0.9), ("c", 0.50002), ("b", 0.5), ("d", 0.1)]
    assert Replay(recorded, tied).first_difference is None
    assert Replay(recorded, recorded[:3]).first_difference == 4
    assert Replay(recorded[:3], recorded).first_difference == 4
    assert Replay(recorded, [("a", 0.9), ("b", 0.5), ("d", 0.1), ("c", 0.50001)]).first_difference == 3
    assert Replay(recorded, [("x", 0.9), *recorded[1:]]).first_difference == 1
    assert Replay([], []).first_difference is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version 2"),
        ({"hidden": {"count": 5_000, "item_ids": None}}, "5000 items were hidden"),
        ({"excluded": {"count": 7, "item_ids": None}}, "7 excluded items"),
        ({"request": {"_": "Another"}}, "no class 'Another'"),
        ({"request": {"_": "Query", "surprise": 1}}, "other fields"),
        ({"steps": None}, "cannot be replayed"),
    ],
)
async def test_a_record_that_does_not_say_enough_is_refused(
    served: ServedBundle, open_bundle: Callable[[str], ServedBundle], change: dict[str, Any], message: str
) -> None:
    async with recording(served) as (recommender, records):
        await recommender.recommend(_query())
    with pytest.raises(InvalidInput, match=message):
        await replay_record(records[0] | change, open_bundle)


async def test_a_history_of_which_only_the_hash_was_kept_is_compared_with_the_stored_one(
    served: ServedBundle, open_bundle: Callable[[str], ServedBundle]
) -> None:
    async with recording(served) as (recommender, records):
        await recommender.recommend(_query())
    record = records[0]
    rows = [done(f"i{number}", number) for number in (3, 14, 15)]
    record["history"] |= {"item_ids": None, "timestamps": None, "types": None}
    later = past([*rows, done("i50", 99)])  # reported since
    assert (await replay_record(record, open_bundle, interactions=later)).first_difference is None
    with pytest.raises(InvalidInput, match="the stored one is another"):
        await replay_record(record, open_bundle, interactions=past(rows[1:]))
    with pytest.raises(InvalidInput, match="only its hash"):
        await replay_record(record, open_bundle)


def test_the_command_finds_a_record_by_id_or_file(
    both_settings: Settings, both_root: Path, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    user = f"user-{uuid4().hex}"

    async def ask() -> tuple[list[str], dict[str, Any]]:
        async with running_app(both_settings) as (_, client):
            await client.post("/events", json={"events": [event(user, f"i{number}", number) for number in (1, 2, 3)]})
            answer = await client.post("/recommend", json={"user_id": user, "k": 5, "model": "hatllm"})
            return item_ids(answer), await _record(client, answer.json()["recommendation_id"])

    items, record = asyncio.run(ask())
    where = ["--redis-url", redis_server.url, "--store", str(both_root)]
    arguments = [sys.executable, "-m", "offline.replay", "--id", record["recommendation_id"], *where]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=200)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, figures["equal"], figures["num_items"]) == (0, True, 5), done.stderr

    record["items"][2]["item_id"] = next(f"i{number}" for number in range(1, 61) if f"i{number}" not in items)
    (tmp_path / "decision.json").write_text(json.dumps(record))
    by_file = CliRunner().invoke(app, ["--file", str(tmp_path / "decision.json"), "--store", str(both_root)])
    figures = json.loads(by_file.stdout.splitlines()[-1])
    assert (by_file.exit_code, figures["equal"], figures["first_difference"]["rank"]) == (1, False, 3)
    assert figures["first_difference"]["replayed"]["item_id"] == items[2]

    for impossible in (["--id", "0" * 32, *where], ["--file", str(tmp_path / "none.json"), *where], where):
        assert isinstance(CliRunner().invoke(app, impossible).exception, InvalidInput)


async def _record(client: httpx2.AsyncClient, name: str) -> dict[str, Any]:
    for _ in range(200):
        answer = await client.get(f"/recommendations/{name}")
        if answer.status_code == 200:
            record: dict[str, Any] = answer.json()
            return record
        await asyncio.sleep(0.02)
    raise TimeoutError(name)
