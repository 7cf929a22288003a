"""Erasing what encoders keep: after all who asked before, whatever waits."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from model_store.artifacts.store import ModelStore
from model_store.encoding import UserEncoder
from model_store.people.histories import History
from service.engine.batcher import EncodeBatcher
from service.engine.live_bundles import LiveBundles
from service.errors import Overloaded
from service.people.user_states import UserStates
from tests.service.engine.test_batcher import Counts


@pytest.fixture
async def models() -> AsyncIterator[EncodeBatcher]:
    batcher = EncodeBatcher(max_users=4, max_wait_seconds=0, max_waiting=2, observer=Counts())
    batcher.start()
    yield batcher
    await batcher.aclose()


@pytest.fixture
async def bundles(both_root: Path) -> LiveBundles:
    live = LiveBundles(ModelStore(both_root), device="cpu", state_bytes=2**20)
    await live.reload()
    return live


def _encoder(bundles: LiveBundles) -> UserEncoder:
    return bundles.get("hatllm").encoder


def _history(owner: str) -> History:
    return History(np.array([1, 2]), np.array([0, 0]), owner=owner)


async def test_loading_keeps_nothing(bundles: LiveBundles, models: EncodeBatcher) -> None:
    assert UserStates(bundles, models).kept_bytes() == {"hllm": 0, "hatllm": 0}


async def test_forgetting_waits_for_a_full_queue_and_for_what_is_in_it(
    bundles: LiveBundles, models: EncodeBatcher
) -> None:
    states, gate = UserStates(bundles, models), threading.Event()
    busy = asyncio.create_task(models.run(lambda: gate.wait(10)))
    await asyncio.sleep(0.02)  # in the worker now
    waiting = [asyncio.create_task(models.encode(_encoder(bundles), _history(owner))) for owner in ("gone", "stays")]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await models.encode(_encoder(bundles), _history("late"))
    forgetting = asyncio.create_task(states.forget(["gone"]))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(busy, *waiting)
    assert await forgetting == 1
    assert states.kept_bytes()["hatllm"] > 0
    assert await states.forget(["gone"]) == 0
    assert await states.forget(["stays"]) == 1
    assert states.kept_bytes() == {"hllm": 0, "hatllm": 0}
