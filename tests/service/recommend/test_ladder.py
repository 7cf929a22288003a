"""The fallback ladder: which step answers, in what time, and that nothing but the steps differs.

The slow model is slow because its history is long: 2,048 items take most of a second, on a fast machine too, two
take a few milliseconds.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.store import ModelStore
from model_store.encoding import UserEncoder
from model_store.kinds import make_generator, make_user_encoder
from model_store.people.histories import History
from model_store.people.owner import Owner
from service.engine.batcher import EncodeBatcher
from service.engine.served_bundle import ServedBundle
from service.errors import DeadlineExceeded, HistoryUnavailable, InvalidRequest, ModelUnavailable, Overloaded
from service.people.interactions import Interactions
from service.people.remembered import LastKnown
from service.recommend.ask import Query, Recommendation, SegmentWish
from service.wiring import SearchThreads
from tests.past import done, past
from tests.service.engine.test_batcher import Counts
from tests.service.recommend.pipelines import (
    OneBundle,
    Shelf,
    inline_query,
    make_recommender,
    nearest,
    poison,
    with_wrong_index,
)
from tests.shop import add_small_bundle, add_small_model

LONG = 2_048
# what a loaded machine may take more than it should
SLACK = 1.2


class Slowed:
    """A user encoder to which a long history is long on every machine."""

    def __init__(self, encoder: UserEncoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        if max(len(history.item_indices) for history in histories) > LONG // 2:
            time.sleep(1.5)
        return self._encoder.encode(histories)


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A model that reads very long histories, and two bundles of it."""
    store = ModelStore(tmp_path_factory.mktemp("long") / "store")
    model = add_small_model(store, max_history_length=LONG)
    first = add_small_bundle(store, model)
    add_small_bundle(store, model, seed=1)
    store.publish(first.bundle_id)
    return store


@pytest.fixture
def served(long_store: ModelStore) -> ServedBundle:
    bundle = open_bundle(long_store, long_store.live().bundles["hllm"])
    served = ServedBundle(bundle, Slowed(make_user_encoder(bundle)))
    served.encoder.encode([History(np.array([1]), np.array([0]))])  # what is lazy is done
    return served


@asynccontextmanager
async def batching(*, max_waiting: int = 64, max_users: int = 1) -> AsyncIterator[EncodeBatcher]:
    batcher = EncodeBatcher(max_users=max_users, max_wait_seconds=0, max_waiting=max_waiting, observer=Counts())
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.aclose()


@pytest.fixture
async def batcher() -> AsyncIterator[EncodeBatcher]:
    async with batching() as batcher:
        yield batcher


def _ids(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def _codes(answer: Recommendation) -> list[str]:
    return [warning.partition(":")[0] for warning in answer.trace.warnings]


def _steps(answer: Recommendation) -> list[tuple[str, str]]:
    return [(note.step, note.reason) for note in answer.trace.steps]


def _long_history() -> Interactions:
    """Two thousand times i1 and i2."""
    return past([done(f"i{1 + at % 2}", at) for at in range(LONG)])


def _known() -> LastKnown:
    return LastKnown(max_bytes=1 << 20, max_age_seconds=100)


async def test_the_last_good_embedding_answers_where_the_model_fails(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    shelf, last_known = Shelf(), _known()
    shelf.add("u1", "i1", "i2")
    recommender = make_recommender(served, batcher, histories=shelf, last_known=last_known)
    query = Query("u1", 5, 5, exclude_item_ids=["i4"])
    embedding = served.encoder.encode([History(np.array([1, 2]), np.array([10, 20]))])[0]
    assert (await recommender.recommend(query)).source == "model"
    poison(served.encoder)
    # seen now, and therefore not shown, whatever the older embedding says of them
    newly_seen = nearest(served, embedding, 2, without={1, 2, 4})
    shelf.add("u1", *newly_seen)
    answer = await recommender.recommend(query)
    gone = {1, 2, 4, *(int(item_id[1:]) for item_id in newly_seen)}
    assert _ids(answer) == nearest(served, embedding, 5, without=gone)
    assert (answer.source, answer.trace.fallback_reason) == ("fallback:last_embedding", "model_failed")
    assert _codes(answer) == ["model_failed", "last_embedding"]
    assert _steps(answer) == [("model", "failed"), ("last_embedding", "answered")]
    assert answer.history_length == 0
    # forgotten, nothing is left of it
    last_known.forgetting.forget(Owner("u1").hash)
    again = await recommender.recommend(query)
    assert (again.source, _steps(again)[1]) == ("fallback:similar_items", ("last_embedding", "none_kept"))


async def test_an_embedding_that_is_too_old_is_not_used(served: ServedBundle, batcher: EncodeBatcher) -> None:
    shelf = Shelf()
    shelf.add("u1", "i1")
    last_known = LastKnown(max_bytes=1 << 20, max_age_seconds=0.05)
    recommender = make_recommender(served, batcher, histories=shelf, last_known=last_known)
    assert (await recommender.recommend(Query("u1", 5, 5))).source == "model"
    poison(served.encoder)
    shelf.add("u1", "i2")
    time.sleep(0.06)
    assert (await recommender.recommend(Query("u1", 5, 5))).source == "fallback:similar_items"
    assert last_known.kept_bytes()["embeddings"] == 0


async def test_an_embedding_of_another_bundle_is_not_used(
    served: ServedBundle, long_store: ModelStore, batcher: EncodeBatcher
) -> None:
    shelf, bundles = Shelf(), OneBundle(served)
    shelf.add("u1", "i1")
    recommender = make_recommender(bundles, batcher, histories=shelf)
    first = await recommender.recommend(Query("u1", 5, 5))
    other_id = next(
        entry.name for entry in sorted((Path(long_store.root) / "bundles").iterdir()) if entry.name != served.bundle_id
    )
    other = open_bundle(long_store, other_id)
    encoder = make_user_encoder(other)
    poison(encoder)
    bundles.served = ServedBundle(other, encoder)
    answer = await recommender.recommend(Query("u1", 5, 5))
    assert answer.source == "fallback:similar_items"
    bundles.served = served
    assert (await recommender.recommend(Query("u1", 5, 5))).items == first.items


async def test_a_model_that_is_too_slow_is_answered_within_the_deadline_and_kept_for_the_next_time(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    shelf = Shelf()
    shelf.users["u1"] = [*_events("u1", LONG)]
    recommender = make_recommender(served, batcher, histories=shelf)
    started = time.perf_counter()
    answer = await recommender.recommend(Query("u1", 5, 0.12))
    assert time.perf_counter() - started < 0.12 + SLACK
    # what is similar, unless this machine is so busy that a search takes long, too
    assert answer.source in {"fallback:similar_items", "fallback:segment_popular", "fallback:popular"}
    assert (answer.trace.fallback_reason, _steps(answer)[0]) == ("model_timed_out", ("model", "timed_out"))
    assert len(answer.items) == 5
    # the forward pass was not for nothing
    await _until(lambda: batcher.last_encoded > started)
    await asyncio.sleep(0.3)  # the event loop keeps it a moment later
    again = await recommender.recommend(Query("u1", 5, 30))
    assert (again.source, again.trace.timing.encode) == ("model", 0)
    # and is known to be slow: nobody waits for it again
    shelf.users["u1"] += _events("u1", 1)
    started = time.perf_counter()
    third = await recommender.recommend(Query("u1", 5, 0.12))
    assert _steps(third)[0] in {("model", "no_time"), ("model", "overloaded")}
    assert ("last_embedding", "none_kept") not in _steps(third)
    assert time.perf_counter() - started < 0.12 + SLACK
    # who has the time gets the model
    assert (await recommender.recommend(Query("u1", 5, 30))).source == "model"


async def test_a_full_queue_is_answered_by_the_next_step(served: ServedBundle) -> None:
    async with batching(max_waiting=1) as batcher:
        recommender = make_recommender(served, batcher)
        strict = make_recommender(served, batcher, falls_back=False)
        slow = Query(None, 5, 30, history=_long_history())
        waiting = [asyncio.create_task(recommender.recommend(slow))]
        await asyncio.sleep(0.05)  # at work
        waiting.append(asyncio.create_task(recommender.recommend(slow)))
        await asyncio.sleep(0.02)  # in the queue, which is full now
        with pytest.raises(Overloaded):
            await strict.recommend(inline_query())
        started = time.perf_counter()
        answer = await recommender.recommend(inline_query())
        assert time.perf_counter() - started < 0.2 + SLACK
        assert (answer.source, answer.trace.fallback_reason) == ("fallback:similar_items", "model_overloaded")
        assert _steps(answer)[0] == ("model", "overloaded")
        assert [one.source for one in await asyncio.gather(*waiting)] == ["model", "model"]


async def test_searches_that_never_end_do_not_hold_up_what_is_popular(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    searches, gate = SearchThreads(), threading.Event()
    busy = [asyncio.create_task(searches(lambda: gate.wait(10))) for _ in range(2)]
    recommender = make_recommender(served, batcher, run_blocking=searches)
    started = time.perf_counter()
    answers = await asyncio.gather(*(recommender.recommend(inline_query(timeout_seconds=0.2)) for _ in range(5)))
    assert time.perf_counter() - started < 0.2 + SLACK
    for answer in answers:
        # the segments could not be worked out either
        assert (answer.source, _ids(answer)) == ("fallback:popular", ["i3", "i5", "i6", "i7"])
        assert answer.trace.fallback_reason == "search_timed_out"
        assert _steps(answer) == [
            ("model", "search_timed_out"),
            ("segment_popular", "not_built"),
            ("popular", "answered"),
        ]
    # known now
    started = time.perf_counter()
    answer = await recommender.recommend(inline_query(timeout_seconds=0.2))
    assert answer.trace.fallback_reason in {"search_no_time", "model_no_time"}
    gate.set()
    await asyncio.gather(*busy)
    assert (await recommender.recommend(inline_query())).source == "model"
    assert (await make_recommender(with_wrong_index(served), batcher).recommend(inline_query())).source == (
        "fallback:segment_popular"
    )


async def test_small_bundles_are_searched_without_a_thread_and_answer_the_same(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    threads = SearchThreads()
    in_threads = 0

    async def counting(work: Callable[[], Any]) -> Any:
        nonlocal in_threads
        in_threads += 1
        return await threads(work)

    answers, counts = [], []
    for query in (inline_query(), Query(None, 4, 5, history=past([]))):
        for inline_values in (0, served.num_values - 1, served.num_values):
            in_threads = 0
            recommender = make_recommender(
                served, batcher, run_blocking=counting, run_popular=counting, inline_values=inline_values
            )
            answers.append(await recommender.recommend(query))
            counts.append(in_threads)
    # segments are worked out in a thread whatever the size: once for each recommender that needs them
    assert counts == [1, 1, 0, 2, 2, 1]
    for same in (answers[:3], answers[3:]):
        assert len({tuple((item.item_id, item.score) for item in answer.items) for answer in same}) == 1
    threads.close()


async def test_a_deadline_that_nothing_can_meet_is_answered_at_once_and_said(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    recommender = make_recommender(served, batcher)
    answer = await recommender.recommend(inline_query(timeout_seconds=1e-6))
    assert answer.source in {"fallback:popular", "fallback:segment_popular"}
    assert len(answer.items) == 4
    assert _codes(answer)[-1] == "late"


async def test_nobody_known_gets_popular_items_of_the_segment_that_is_named(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    recommender = make_recommender(served, batcher)
    cold = Query("nobody", 3, 5, exclude_item_ids=["i3"])

    async def answered(wish: SegmentWish, **more: Any) -> tuple[str, list[str]]:
        answer = await recommender.recommend(replace(cold, segment=wish, **more))
        assert answer.trace.fallback_reason == "no_known_history"
        return answer.source, _ids(answer)

    assert await answered(SegmentWish()) == ("fallback:popular", ["i1", "i2", "i4"])
    # every third item is Audio, beginning with i3
    assert await answered(SegmentWish(value="Audio")) == ("fallback:segment_popular", ["i6", "i9", "i12"])
    assert await answered(SegmentWish("tags", "even")) == ("fallback:segment_popular", ["i2", "i4", "i6"])
    assert await answered(SegmentWish("stock", 60)) == ("fallback:segment_popular", ["i60", "i1", "i2"])
    assert await answered(SegmentWish("is_new", True)) == ("fallback:segment_popular", ["i51", "i52", "i53"])
    for nothing in (
        SegmentWish(value="Cars"),
        SegmentWish("stock", 61),
        SegmentWish("stock", True),
        SegmentWish("tags"),
    ):
        assert await answered(nothing) == ("fallback:popular", ["i1", "i2", "i4"])
    # of a segment of which nothing may be shown nothing is said
    assert await answered(SegmentWish("stock", 3)) == ("fallback:popular", ["i1", "i2", "i4"])
    for wrong in (SegmentWish("colour"), SegmentWish("price"), SegmentWish("title")):
        with pytest.raises(InvalidRequest):
            await recommender.recommend(replace(cold, segment=wrong))


async def test_a_user_of_unknown_items_only_is_nobody_known(served: ServedBundle, batcher: EncodeBatcher) -> None:
    shelf = Shelf()
    shelf.add("u1", "gone", "away")
    answer = await make_recommender(served, batcher, histories=shelf).recommend(Query("u1", 3, 5))
    assert (answer.source, _ids(answer)) == ("fallback:popular", ["i1", "i2", "i3"])
    assert _steps(answer) == [
        ("model", "no_known_history"),
        ("similar_items", "no_known_history"),
        ("segment_popular", "no_segment"),
        ("popular", "answered"),
    ]


async def test_without_the_history_store_the_last_known_history_says_what_was_seen(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    shelf, last_known = Shelf(), _known()
    shelf.add("u1", "i1", "i2", "i5")
    recommender = make_recommender(served, batcher, histories=shelf, last_known=last_known)
    first = await recommender.recommend(Query("u1", 60, 5))
    last_known.add(Owner("u1"), [done("i9", 90, "click")])  # acknowledged since then
    shelf.is_down = True
    answer = await recommender.recommend(Query("u1", 60, 5))
    assert (answer.source, answer.trace.fallback_reason) == ("fallback:last_embedding", "history_unavailable")
    assert _ids(answer) == [item_id for item_id in _ids(first) if item_id != "i9"]
    assert "of 4 interactions" in answer.trace.warnings[0]
    assert _steps(answer) == [
        ("history", "unavailable"),
        ("model", "history_unavailable"),
        ("last_embedding", "answered"),
    ]
    last_known.embeddings.forget(Owner("u1").hash)
    similar = await recommender.recommend(Query("u1", 60, 5))
    assert similar.source == "fallback:similar_items"
    assert set(_ids(similar)) == set(_ids(answer))
    last_known.forgetting.forget(Owner("u1").hash)
    nothing = await recommender.recommend(Query("u1", 60, 5))
    assert (nothing.source, len(nothing.items)) == ("fallback:popular", 60)
    assert "seen items are not known" in nothing.trace.warnings[0]
    # and a history in the request needs no store
    assert (await recommender.recommend(inline_query())).source == "model"
    shelf.is_down = False
    assert (await recommender.recommend(Query("u1", 60, 5))).source == "model"


async def test_a_history_store_that_hangs_takes_half_of_the_time_once_and_little_from_then_on(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    class Hanging(Shelf):
        async def read(self, user_id: str, **more: Any) -> Any:
            if self.is_down:
                await asyncio.sleep(10)
            return await super().read(user_id, **more)

    shelf = Hanging()
    shelf.add("u1", "i1")
    recommender = make_recommender(served, batcher, histories=shelf)
    shelf.is_down = True
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        answer = await recommender.recommend(Query("u1", 3, 4))
        assert answer.trace.fallback_reason == "history_unavailable"
        seconds.append(time.perf_counter() - started)
    assert 1.9 < seconds[0] < 4 + SLACK
    assert max(seconds[1:]) < 1.9
    shelf.is_down = False
    assert (await recommender.recommend(Query("u1", 3, 4))).source == "model"


async def test_with_the_ladder_off_what_fails_is_an_error(served: ServedBundle, batcher: EncodeBatcher) -> None:
    shelf = Shelf()
    shelf.users["slow"] = _events("slow", LONG)
    shelf.add("u1", "i1")
    strict = make_recommender(served, batcher, histories=shelf, falls_back=False)
    assert (await strict.recommend(Query("u1", 3, 5))).source == "model"
    assert (await strict.recommend(Query("nobody", 3, 5))).source == "fallback:popular"
    # or overloaded, as soon as the queue knows how long it takes
    with pytest.raises((DeadlineExceeded, Overloaded)):
        await strict.recommend(Query("slow", 3, 0.05))
    with pytest.raises(ModelUnavailable) as index:
        await make_recommender(with_wrong_index(served), batcher, falls_back=False).recommend(inline_query())
    assert index.value.code == "index_failed"
    poison(served.encoder)
    shelf.add("u1", "i2")
    with pytest.raises(ModelUnavailable) as model:
        await strict.recommend(Query("u1", 3, 5))
    assert model.value.code == "model_failed"
    shelf.is_down = True
    with pytest.raises(HistoryUnavailable):
        await strict.recommend(Query("u1", 3, 5))


async def test_titles_that_cannot_be_written_are_an_error_with_the_ladder_off(
    both_root: Path, batcher: EncodeBatcher
) -> None:
    store = ModelStore(both_root)
    bundle = open_bundle(store, store.live().bundles["hatllm"])
    encoder = make_user_encoder(bundle)
    hat = ServedBundle(bundle, encoder, make_generator(bundle, encoder), ("retrieve", "generate"))
    strict = make_recommender(hat, batcher, falls_back=False)
    assert (await strict.recommend(inline_query(mode="generate"))).source == "model"
    poison(encoder)
    with pytest.raises(ModelUnavailable) as error:
        await strict.recommend(inline_query(mode="generate"))
    assert error.value.code == "generate_failed"


async def test_who_is_forgotten_while_the_model_reads_their_history_is_not_remembered(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    shelf, last_known = Shelf(), _known()
    shelf.users["u1"] = _events("u1", LONG)
    recommender = make_recommender(served, batcher, histories=shelf, last_known=last_known)
    started = time.monotonic()
    asked = asyncio.create_task(recommender.recommend(Query("u1", 3, 0.1)))
    await asyncio.sleep(0.03)
    last_known.forgetting.forget(Owner("u1").hash)
    await asked
    await _until(lambda: batcher.last_encoded > started)
    await asyncio.sleep(0.02)
    assert last_known.kept_bytes() == {"embeddings": 0, "histories": 0, "answers": 0}


def _events(user_id: str, number: int) -> list[Any]:
    shelf = Shelf()
    shelf.add(user_id, *(f"i{1 + at % 2}" for at in range(number)))
    return shelf.users[user_id]


async def _until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)
