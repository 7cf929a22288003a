"""The fallback ladder, where the model or the index fails, and the request's deadline."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.bundle import open_bundle
from model_store.store import ModelStore
from model_store.user_encoder import History, make_user_encoder
from service.engine.batcher import EncodeBatcher
from service.engine.served_bundle import ServedBundle
from service.errors import DeadlineExceeded
from service.pipeline.recommender import Interaction, Query, Recommender
from service.running import SearchThreads
from service.sessions.history_store import StoredHistory
from tests.service.test_batcher import Counts


class OneBundle:
    """Always the same bundle."""

    def __init__(self, served: ServedBundle) -> None:
        self._served = served

    def get(self, _kind: str | None = None) -> ServedBundle:
        return self._served


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

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        if self._fault == "raises":
            raise RuntimeError("out of memory")
        if self._fault == "slow":
            time.sleep(0.3)
        embeddings = self._encoder.encode(histories)
        return embeddings * np.nan if self._fault == "nan" else embeddings


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
async def batcher() -> AsyncIterator[EncodeBatcher]:
    batcher = EncodeBatcher(max_users=4, max_wait_seconds=0, max_waiting=4, observer=Counts())
    batcher.start()
    yield batcher
    await batcher.aclose()


def _recommender(served: ServedBundle, batcher: EncodeBatcher) -> Recommender:
    return Recommender(
        bundles=OneBundle(served), histories=NoHistories(), encoders=batcher, run_blocking=SearchThreads()
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
