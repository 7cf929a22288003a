"""The fallback ladder, where the model or the index fails, the request's deadline, and an erasure in between."""

import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.bundle import open_bundle
from model_store.generator import make_generator
from model_store.store import ModelStore
from model_store.user_encoder import History, make_user_encoder
from service.engine.batcher import EncodeBatcher
from service.engine.served_bundle import ServedBundle
from service.errors import DeadlineExceeded
from service.pipeline.choosing import Chooser
from service.pipeline.protocols import HistoryReader
from service.pipeline.query import Interaction, Query
from service.pipeline.recommender import Recommender
from service.running import SearchThreads
from service.sessions.history_store import Event, StoredHistory
from tests.service.test_batcher import Counts


class OneBundle:
    """Always the same bundle."""

    def __init__(self, served: ServedBundle) -> None:
        self._served = served

    def get(self, _kind: str | None = None) -> ServedBundle:
        return self._served

    def is_live(self, kind: str) -> bool:
        return kind == self._served.kind


class NoHistories:
    """Nobody is known."""

    async def read(self, *_: Any, **__: Any) -> StoredHistory:
        return StoredHistory()


class Encoder:
    """The real one, with a fault in it."""

    def __init__(self, served: ServedBundle, fault: str) -> None:
        self._encoder = served.encoder
        self._fault = fault
        self.max_history_length = self._encoder.max_history_length
        self.embedding_dim = self._encoder.embedding_dim
        self.kept_bytes = 0

    def window(self, num_items: int) -> int:
        return self._encoder.window(num_items)

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        if self._fault == "raises":
            raise RuntimeError("out of memory")
        if self._fault == "slow":
            time.sleep(0.3)
        embeddings = self._encoder.encode(histories)
        return embeddings * np.nan if self._fault == "nan" else embeddings

    def explain(self, history: History) -> np.ndarray:
        if self._fault == "cannot explain":
            raise RuntimeError("out of memory")
        return self._encoder.explain(history)

    def forget(self, owner: str) -> bool:
        return self._encoder.forget(owner)


class Generator:
    """Breaks, or says what it is told to."""

    def __init__(self, answer: tuple[list[int], list[float]] | None) -> None:
        self._answer = answer

    def recommend(self, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        if self._answer is None:
            raise FloatingPointError("the model gave a logit that is not finite")
        return np.array(self._answer[0], dtype=np.int64), np.array(self._answer[1], dtype=np.float32)


class BrokenIndex:
    """Raises whatever is asked."""

    def search(self, *_: Any, **__: Any) -> Any:
        raise OSError("the file is gone")


@pytest.fixture
def served(shop_root: Path) -> ServedBundle:
    store = ModelStore(shop_root)
    bundle = open_bundle(store, store.live().bundles["hllm"])
    return ServedBundle(bundle, make_user_encoder(bundle))


@pytest.fixture
def hat(both_root: Path) -> ServedBundle:
    """A HatLLM that generates and retrieves."""
    store = ModelStore(both_root)
    bundle = open_bundle(store, store.live().bundles["hatllm"])
    encoder = make_user_encoder(bundle)
    return ServedBundle(bundle, encoder, make_generator(bundle, encoder), ("retrieve", "generate"))


@pytest.fixture
async def batcher() -> AsyncIterator[EncodeBatcher]:
    batcher = EncodeBatcher(max_users=4, max_wait_seconds=0, max_waiting=4, observer=Counts())
    batcher.start()
    yield batcher
    await batcher.aclose()


def _recommender(
    served: ServedBundle,
    batcher: EncodeBatcher,
    *,
    histories: HistoryReader | None = None,
    num_erasures: Callable[[], int] = lambda: 0,
) -> Recommender:
    return Recommender(
        chooser=Chooser(OneBundle(served)),
        histories=histories or NoHistories(),
        models=batcher,
        run_blocking=SearchThreads(),
        num_erasures=num_erasures,
    )


def _query(**more: Any) -> Query:
    history = [Interaction("i1"), Interaction("i2", 5)]
    return Query(user_id=None, k=4, timeout_seconds=5, history=history, exclude_item_ids=["i4"], **more)


@pytest.mark.parametrize("fault", ["raises", "nan"])
async def test_a_failing_model_is_answered_by_popular_items_under_the_same_constraints(
    served: ServedBundle, batcher: EncodeBatcher, fault: str
) -> None:
    broken = replace(served, encoder=Encoder(served, fault))
    answer = await _recommender(broken, batcher).recommend(_query())
    assert [item.item_id for item in answer.items] == ["i3", "i5", "i6", "i7"]
    assert (answer.source, answer.fallback_reason) == ("fallback:popular", "model_failed")
    assert answer.warnings[0].startswith("model_failed: ")


async def test_a_failing_index_is_answered_by_popular_items(served: ServedBundle, batcher: EncodeBatcher) -> None:
    index: Any = BrokenIndex()
    broken = replace(served, bundle=replace(served.bundle, index=index))
    answer = await _recommender(broken, batcher).recommend(_query())
    assert [item.item_id for item in answer.items] == ["i3", "i5", "i6", "i7"]
    assert (answer.source, answer.fallback_reason) == ("fallback:popular", "index_failed")


async def test_titles_that_cannot_be_written_are_answered_by_retrieval(
    hat: ServedBundle, batcher: EncodeBatcher
) -> None:
    retrieved = await _recommender(hat, batcher).recommend(_query())
    broken = replace(hat, generator=Generator(None))
    answer = await _recommender(broken, batcher).recommend(_query(mode="generate"))
    assert [item.item_id for item in answer.items] == [item.item_id for item in retrieved.items]
    assert (answer.source, answer.fallback_reason) == ("fallback:retrieve", "generate_failed")
    assert (answer.mode, answer.history_length) == ("generate", 2)
    assert answer.warnings[0].startswith("generate_failed: ")


async def test_a_model_that_can_do_nothing_is_answered_by_popular_items(
    hat: ServedBundle, batcher: EncodeBatcher
) -> None:
    broken = replace(hat, generator=Generator(None), encoder=Encoder(hat, "raises"))
    answer = await _recommender(broken, batcher).recommend(_query(mode="generate", explain=True))
    assert [item.item_id for item in answer.items] == ["i3", "i5", "i6", "i7"]
    assert (answer.source, answer.fallback_reason) == ("fallback:popular", "generate_failed")
    assert [warning.partition(":")[0] for warning in answer.warnings] == ["generate_failed", "model_failed"]
    assert not any(item.reasons for item in answer.items)


async def test_a_generator_cannot_smuggle_in_what_is_excluded(hat: ServedBundle, batcher: EncodeBatcher) -> None:
    careless = replace(hat, generator=Generator(([4, 1, 9], [-0.1, -0.2, -0.3])))
    answer = await _recommender(careless, batcher).recommend(_query(mode="generate"))
    ids = [item.item_id for item in answer.items]
    assert ids[0] == "i9"
    assert len(set(ids)) == 4
    assert not {"i1", "i2", "i4"} & set(ids)
    assert answer.source == "model"


async def test_an_index_that_fails_after_generating_is_filled_up_with_popular_items(
    hat: ServedBundle, batcher: EncodeBatcher
) -> None:
    index: Any = BrokenIndex()
    broken = replace(hat, generator=Generator(([9], [-0.3])), bundle=replace(hat.bundle, index=index))
    answer = await _recommender(broken, batcher).recommend(_query(mode="generate"))
    assert [(item.item_id, round(item.score, 3)) for item in answer.items] == [
        ("i9", -0.3),
        ("i3", 0.0),
        ("i5", 0.0),
        ("i6", 0.0),
    ]
    assert (answer.source, answer.fallback_reason) == ("model", None)
    assert [warning.partition(":")[0] for warning in answer.warnings] == ["index_failed", "popular_fill"]


async def test_an_answer_without_reasons_is_better_than_none(hat: ServedBundle, batcher: EncodeBatcher) -> None:
    mute = replace(hat, encoder=Encoder(hat, "cannot explain"))
    answer = await _recommender(mute, batcher).recommend(_query(explain=True))
    assert (answer.source, len(answer.items)) == ("model", 4)
    assert not any(item.reasons for item in answer.items)
    assert [warning.partition(":")[0] for warning in answer.warnings] == ["explain_failed"]


async def test_all_that_needs_the_model_runs_on_its_thread(hat: ServedBundle, batcher: EncodeBatcher) -> None:
    threads: dict[str, str] = {}

    class Watched:
        def __init__(self, wrapped: Any) -> None:
            self._wrapped = wrapped

        def __getattr__(self, name: str) -> Any:
            if name in {"encode", "explain", "recommend"}:
                threads[name] = threading.current_thread().name
            return getattr(self._wrapped, name)

    watched: Any = replace(hat, encoder=Watched(hat.encoder), generator=Watched(hat.generator))
    for mode in ("retrieve", "generate"):
        await _recommender(watched, batcher).recommend(_query(mode=mode, explain=True))
    assert threads.keys() == {"encode", "explain", "recommend"}
    assert all(name.startswith("hatstand-model") for name in threads.values())


@pytest.mark.parametrize("more", [{}, {"mode": "generate"}, {"explain": True}])
@pytest.mark.parametrize("is_erased", [False, True])
async def test_who_is_erased_while_a_request_has_their_history_does_not_come_back(
    hat: ServedBundle, batcher: EncodeBatcher, more: dict[str, Any], is_erased: bool
) -> None:
    num_erasures = 0

    class ErasedMeanwhile:
        async def read(self, user_id: str, **_: Any) -> StoredHistory:
            nonlocal num_erasures
            num_erasures += is_erased
            hat.encoder.forget(user_id)
            return StoredHistory([Event("e1", user_id, "i1", 1), Event("e2", user_id, "i2", 2)])

    recommender = _recommender(hat, batcher, histories=ErasedMeanwhile(), num_erasures=lambda: num_erasures)
    answer = await recommender.recommend(Query(user_id="u1", k=4, timeout_seconds=5, **more))
    assert (answer.source, answer.history_length) == ("model", 2)
    assert hat.encoder.forget("u1") is not is_erased
    assert hat.encoder.kept_bytes == 0


async def test_a_deadline_is_kept(served: ServedBundle, batcher: EncodeBatcher) -> None:
    slow = replace(served, encoder=Encoder(served, "slow"))
    started = time.perf_counter()
    with pytest.raises(DeadlineExceeded, match="50 ms"):
        await _recommender(slow, batcher).recommend(replace(_query(), timeout_seconds=0.05))
    assert time.perf_counter() - started < 0.25


async def test_an_inline_history_is_put_in_the_order_of_time_only_if_all_times_are_known(
    served: ServedBundle, batcher: EncodeBatcher
) -> None:
    async def answered(*history: Interaction) -> list[float]:
        query = replace(_query(), history=history, exclude_item_ids=())
        return [item.score for item in (await _recommender(served, batcher).recommend(query)).items]

    sorted_ = await answered(Interaction("i1", 10), Interaction("i2", 20))
    assert await answered(Interaction("i2", 20), Interaction("i1", 10)) == sorted_
    assert await answered(Interaction("i2"), Interaction("i1", 10)) != sorted_
