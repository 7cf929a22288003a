"""The watchdog: not ready within two seconds of a model that is stuck or wrong, and ready again after it."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

import service.engine.health as health_module
import service.engine.watchdog as watchdog_module
from service.engine.model_thread import ModelThread
from service.engine.watchdog import Watchdog
from service.settings import Settings

# two are promised; the rest is for a busy machine
WITHIN_SECONDS = 4.0


class FakeModel:
    """A forward pass that can be held, or made to fail."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.num_passes = 0

    def probe(self) -> None:
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        self.num_passes += 1


@asynccontextmanager
async def watched(
    model: FakeModel, *, last_encoded: Callable[[], float] = lambda: -math.inf
) -> AsyncIterator[tuple[Watchdog, ModelThread]]:
    thread = ModelThread()
    watchdog = Watchdog(thread, make_probe=lambda: model.probe, last_encoded=last_encoded, stuck_seconds=1.5)
    watchdog.start()
    try:
        yield watchdog, thread
    finally:
        model.gate.set()
        await watchdog.aclose()
        assert await asyncio.to_thread(thread.close, 10)


async def within(holds: Callable[[], bool], seconds: float = WITHIN_SECONDS) -> bool:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        if holds():
            return True
        await asyncio.sleep(0.02)
    return False


async def test_forward_passes_are_run_without_any_request() -> None:
    model = FakeModel()
    async with watched(model) as (watchdog, _):
        assert await within(lambda: model.num_passes >= 2, 8)
        assert watchdog.problem is None
        assert time.monotonic() - watchdog.last_success < 4


async def test_they_become_rarer_while_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "_FIRST_PROBE_SECONDS", 0.1)
    monkeypatch.setattr(watchdog_module, "_LAST_PROBE_SECONDS", 0.8)
    monkeypatch.setattr(watchdog_module, "LOOK_EVERY_SECONDS", 0.01)
    model = FakeModel()
    async with watched(model):
        started = time.monotonic()
        # at once, and then after .1, .2, .4, .8 and .8 seconds
        assert await within(lambda: model.num_passes == 6, 60)
        assert time.monotonic() - started > 2.2


async def test_requests_that_are_answered_make_them_needless() -> None:
    model = FakeModel()
    async with watched(model, last_encoded=time.monotonic) as (watchdog, _):
        await asyncio.sleep(1.5)
        assert model.num_passes == 0
        assert watchdog.problem is None


def test_what_is_stuck_or_gone_is_told_within_two_seconds_by_how_often_it_is_looked_at() -> None:
    stuck_seconds = Settings.model_fields["model_stuck_seconds"].default
    assert stuck_seconds + watchdog_module.LOOK_EVERY_SECONDS < 2
    assert health_module.PING_EVERY_SECONDS + health_module.PING_TIMEOUT_SECONDS < 2


async def test_a_stuck_model_is_told_within_two_seconds_and_its_return_too() -> None:
    model = FakeModel()
    async with watched(model) as (watchdog, thread):
        assert await within(lambda: model.num_passes > 0)
        model.gate.clear()
        thread.submit(model.probe)
        assert await within(lambda: watchdog.problem is not None)
        assert "has not answered for" in str(watchdog.problem)
        model.gate.set()
        assert await within(lambda: watchdog.problem is None)


async def test_a_forward_pass_that_fails_is_told_and_forgotten_when_the_next_one_does_not() -> None:
    model = FakeModel()
    model.error = ArithmeticError("not a number")
    async with watched(model) as (watchdog, _):
        assert await within(lambda: watchdog.problem is not None)
        assert "not a number" in str(watchdog.problem)
        await asyncio.sleep(1)
        assert watchdog.problem is not None
        model.error = None
        assert await within(lambda: watchdog.problem is None)


async def test_a_request_that_is_answered_later_forgets_it_too_and_one_before_does_not() -> None:
    model, encoded_at = FakeModel(), [time.monotonic() - 2]
    model.error = ArithmeticError("not a number")
    async with watched(model, last_encoded=lambda: encoded_at[0]) as (watchdog, _):
        assert await within(lambda: watchdog.problem is not None)
        assert not await within(lambda: watchdog.problem is None, 1)
        model.error = None
        encoded_at[0] = time.monotonic()
        assert await within(lambda: watchdog.problem is None)
