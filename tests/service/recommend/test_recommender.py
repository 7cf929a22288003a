"""One recommendation from beginning to end, where a part fails or somebody is erased in between."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.people.owner import Owner
from service.engine.batcher import EncodeBatcher
from service.engine.served_bundle import ServedBundle
from service.people.remembered import LastKnown
from service.recommend.ask import Query, Recommendation
from service.wiring import SearchThreads
from tests.past import Row, done, past
from tests.service.engine.test_batcher import Counts
from tests.service.recommend.pipelines import (
    Shelf,
    cripple,
    inline_query,
    make_recommender,
    nearest,
    open_served,
    poison,
    with_wrong_index,
)


class Generator:
    """Says what it is told to."""

    def __init__(self, item_indices: list[int], scores: list[float]) -> None:
        self._answer = np.array(item_indices, dtype=np.int64), np.array(scores, dtype=np.float32)

    def recommend(self, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        return self._answer


class Watched:
    """Remembers on which threads its methods run; breaks those that it is told to break."""

    def __init__(self, wrapped: Any, threads: dict[str, str], broken: str = "") -> None:
        self._wrapped, self._threads, self._broken = wrapped, threads, broken

    def __getattr__(self, name: str) -> Any:
        wrapped = getattr(self._wrapped, name)
        if name not in {"encode", "explain", "recommend"}:
            return wrapped

        def watched(*arguments: Any, **options: Any) -> Any:
            self._threads[name] = threading.current_thread().name
            if name == self._broken:
                raise RuntimeError("out of memory")
            return wrapped(*arguments, **options)

        return watched


@pytest.fixture
def served(shop_root: Path) -> ServedBundle:
    return open_served(shop_root, "hllm")


@pytest.fixture
def hat(both_root: Path) -> ServedBundle:
    """A HatLLM that generates and retrieves."""
    return open_served(both_root, "hatllm")


@pytest.fixture
async def batcher() -> AsyncIterator[EncodeBatcher]:
    batcher = EncodeBatcher(max_users=4, max_wait_seconds=0, max_waiting=4, observer=Counts())
    batcher.start()
    yield batcher
    await batcher.aclose()


def _ids(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def _codes(answer: Recommendation) -> list[str]:
    return [warning.partition(":")[0] for warning in answer.trace.warnings]


def _like_the_latest(served: ServedBundle) -> list[str]:
    """What is like i1 and i2, but none of these, nor i4."""
    embeddings = served.bundle.embeddings[:2]
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return nearest(served, unit.mean(axis=0), 4, without={1, 2, 4})


@pytest.mark.parametrize(("break_it", "warning"), [(poison, "not a number"), (cripple, "could not read this history")])
async def test_a_failing_model_is_answered_by_what_is_like_the_latest_items_under_the_same_constraints(
    served: ServedBundle, batcher: EncodeBatcher, break_it: Any, warning: str
) -> None:
    break_it(served.encoder)
    answer = await make_recommender(served, batcher).recommend(inline_query())
    assert _ids(answer) == _like_the_latest(served)
    assert (answer.source, answer.trace.fallback_reason) == ("fallback:similar_items", "model_failed")
    assert (answer.history_length, _codes(answer)) == (0, ["model_failed"])
    assert warning in answer.trace.warnings[0]
    assert [(note.step, note.reason) for note in answer.trace.steps] == [
        ("model", "failed"),
        ("last_embedding", "none_kept"),
        ("similar_items", "answered"),
    ]


async def test_a_failing_index_is_answered_by_what_is_popular_in_the_segment(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    broken = with_wrong_index(served)
    answer = await make_recommender(broken, batcher).recommend(inline_query())
    # of two categories met once each that of the latest item, i2: every third item, and i2 itself was seen
    assert _ids(answer) == ["i5", "i8", "i11", "i14"]
    assert (answer.source, answer.trace.fallback_reason) == ("fallback:segment_popular", "index_failed")
    assert _codes(answer) == ["index_failed"]
    assert [(note.step, note.reason) for note in answer.trace.steps] == [
        ("model", "index_failed"),
        ("segment_popular", "answered"),
    ]


async def test_titles_that_cannot_be_written_are_answered_by_retrieval(
    hat: ServedBundle, batcher: EncodeBatcher
) -> None:
    retrieved = await make_recommender(hat, batcher).recommend(inline_query())
    broken: Any = replace(hat, generator=Watched(hat.generator, {}, "recommend"))
    answer = await make_recommender(broken, batcher).recommend(inline_query(mode="generate"))
    assert _ids(answer) == _ids(retrieved)
    assert (answer.source, answer.trace.fallback_reason) == ("fallback:retrieve", "generate_failed")
    assert (answer.mode, answer.history_length) == ("generate", 2)
    assert _codes(answer) == ["generate_failed"]
    assert [(note.step, note.reason) for note in answer.trace.steps] == [
        ("generate", "failed"),
        ("retrieve", "answered"),
    ]


async def test_a_model_that_can_do_nothing_is_answered_by_what_is_like_the_latest_items(
    hat: ServedBundle, batcher: EncodeBatcher
) -> None:
    poison(hat.encoder)
    answer = await make_recommender(hat, batcher).recommend(inline_query(mode="generate", explain=True))
    assert _ids(answer) == _like_the_latest(hat)
    assert (answer.source, answer.trace.fallback_reason) == ("fallback:similar_items", "generate_failed")
    assert _codes(answer) == ["generate_failed", "model_failed"]
    assert not any(item.reasons for item in answer.items)


async def test_a_generator_cannot_smuggle_in_what_is_excluded(hat: ServedBundle, batcher: EncodeBatcher) -> None:
    careless = replace(hat, generator=Generator([4, 1, 9], [-0.1, -0.2, -0.3]))
    answer = await make_recommender(careless, batcher).recommend(inline_query(mode="generate"))
    ids = _ids(answer)
    assert ids[0] == "i9"
    assert len(set(ids)) == 4
    assert not {"i1", "i2", "i4"} & set(ids)
    assert answer.source == "model"


async def test_an_index_that_fails_after_generating_is_filled_up_with_popular_items(
    hat: ServedBundle, batcher: EncodeBatcher
) -> None:
    broken = replace(with_wrong_index(hat), generator=Generator([9], [-0.3]))
    answer = await make_recommender(broken, batcher).recommend(inline_query(mode="generate"))
    assert [(item.item_id, round(item.score, 3)) for item in answer.items] == [
        ("i9", -0.3),
        ("i3", 0.0),
        ("i5", 0.0),
        ("i6", 0.0),
    ]
    assert (answer.source, answer.trace.fallback_reason) == ("model", None)
    assert _codes(answer) == ["index_failed", "popular_fill"]


async def test_titles_that_were_written_are_not_lost_when_the_rest_cannot_be_searched_in_time(
    hat: ServedBundle, batcher: EncodeBatcher
) -> None:
    searches, gate = SearchThreads(), threading.Event()

    class Holds(Generator):
        def recommend(self, *_: Any) -> tuple[np.ndarray, np.ndarray]:
            for _ in range(2):
                asyncio.run_coroutine_threadsafe(searches(lambda: gate.wait(10)), loop)
            return super().recommend()

    loop = asyncio.get_running_loop()
    busy = replace(hat, generator=Holds([9], [-0.3]))
    recommender = make_recommender(busy, batcher, run_blocking=searches)
    answer = await recommender.recommend(inline_query(mode="generate", timeout_seconds=0.5))
    gate.set()
    assert _ids(answer) == ["i9", "i3", "i5", "i6"]
    assert (answer.source, answer.trace.fallback_reason) == ("model", None)
    # on a busy machine what is popular comes late, too
    assert [code for code in _codes(answer) if code != "late"] == ["search_timed_out", "popular_fill"]


async def test_an_answer_without_reasons_is_better_than_none(hat: ServedBundle, batcher: EncodeBatcher) -> None:
    mute: Any = replace(hat, encoder=Watched(hat.encoder, {}, "explain"))
    for falls_back in (True, False):
        recommender = make_recommender(mute, batcher, falls_back=falls_back)
        answer = await recommender.recommend(inline_query(explain=True))
        assert (answer.source, len(answer.items)) == ("model", 4)
        assert not any(item.reasons for item in answer.items)
        assert _codes(answer) == ["explain_failed"]


async def test_all_that_needs_the_model_runs_on_its_thread(hat: ServedBundle, batcher: EncodeBatcher) -> None:
    threads: dict[str, str] = {}
    watched: Any = replace(hat, encoder=Watched(hat.encoder, threads), generator=Watched(hat.generator, threads))
    for mode in ("retrieve", "generate"):
        await make_recommender(watched, batcher).recommend(inline_query(mode=mode, explain=True))
    assert threads.keys() == {"encode", "explain", "recommend"}
    assert all(name.startswith("hatstand-model") for name in threads.values())


@pytest.mark.parametrize("more", [{}, {"mode": "generate"}, {"explain": True}])
@pytest.mark.parametrize("is_erased", [False, True])
async def test_who_is_erased_while_a_request_has_their_history_does_not_come_back(
    hat: ServedBundle, batcher: EncodeBatcher, more: dict[str, Any], is_erased: bool
) -> None:
    shelf, last_known = Shelf(), LastKnown(max_bytes=1 << 20, max_age_seconds=100)
    shelf.add("u1", "i1", "i2")

    def erase(user_id: str) -> None:
        if is_erased:
            last_known.forgetting.forget(Owner(user_id).hash)
            hat.encoder.forget(Owner(user_id).hash)

    shelf.on_read = erase
    recommender = make_recommender(hat, batcher, histories=shelf, last_known=last_known)
    answer = await recommender.recommend(Query(user_id="u1", k=4, timeout_seconds=5, **more))
    assert (answer.source, answer.history_length) == ("model", 2)
    assert hat.encoder.forget(Owner("u1").hash) is not is_erased
    assert hat.encoder.kept_bytes == 0
    kept = last_known.forgetting.forget(Owner("u1").hash)
    assert (kept["last_histories"] > 0) is not is_erased
    assert kept["last_embeddings"] == (0 if is_erased or more.get("mode") == "generate" else 1)


async def test_an_inline_history_is_put_in_the_order_of_time_only_if_all_times_are_known(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    async def answered(*history: Row) -> list[float]:
        query = inline_query(history=past(history), exclude_item_ids=())
        return [item.score for item in (await make_recommender(served, batcher).recommend(query)).items]

    sorted_ = await answered(done("i1", 10), done("i2", 20))
    assert await answered(done("i2", 20), done("i1", 10)) == sorted_
    assert await answered(done("i2"), done("i1", 10)) != sorted_


async def test_a_history_that_has_not_changed_is_not_read_again_by_the_model(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    shelf = Shelf()
    shelf.add("u1", "i1", "i2")
    recommender, query = make_recommender(served, batcher, histories=shelf), Query("u1", 10, 5)
    first = await recommender.recommend(query)
    poison(served.encoder)
    again = await recommender.recommend(query)
    assert again.items == first.items
    assert (again.source, again.history_length, again.trace.warnings) == ("model", 2, ())
    assert first.trace.timing.encode > 0
    assert (again.trace.timing.encode, again.trace.timing.queue) == (0, 0)
    # another user of the same history is another user; the same history in a request is nobody's
    shelf.add("u2", "i1", "i2")
    inline = replace(query, history=past([done(event.item_id, event.timestamp) for event in shelf.users["u1"]]))
    for other in (replace(query, user_id="u2"), inline):
        assert (await recommender.recommend(other)).source == "fallback:similar_items"
    shelf.add("u1", "i3")
    assert (await recommender.recommend(query)).source == "fallback:last_embedding"


async def test_a_session_has_a_history_of_its_own_and_joins_its_users(
    hat: ServedBundle, batcher: EncodeBatcher
) -> None:
    shelf = Shelf()
    shelf.add("anna", "i1", "i2")
    shelf.add_to_session("anna", "i3", "i4")
    recommender = make_recommender(hat, batcher, histories=shelf)

    async def scores(**who: Any) -> tuple[list[tuple[str, float]], int]:
        answer = await recommender.recommend(Query(**{"user_id": None, "k": 60, "timeout_seconds": 5, **who}))
        return [(item.item_id, pytest.approx(item.score, abs=1e-5)) for item in answer.items], answer.history_length

    def inline(*items: int) -> dict[str, Any]:
        at = {1: 10, 2: 20, 3: 15, 4: 25}
        return {"history": past([done(f"i{item}", at[item]) for item in items])}

    assert await scores(user_id="anna") == await scores(**inline(1, 2))
    assert hat.encoder.forget(Owner("anna").hash)
    # nothing of a session stays with the encoder
    assert await scores(session_id="anna") == await scores(**inline(3, 4))
    assert await scores(user_id="anna", session_id="anna") == await scores(**inline(1, 3, 2, 4))
    assert hat.encoder.kept_bytes == 0
    nobody = await recommender.recommend(Query(None, 4, 5, session_id="nobody"))
    assert (nobody.source, _ids(nobody)) == ("fallback:popular", ["i1", "i2", "i3", "i4"])
