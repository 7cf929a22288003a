"""The whole request path as a state machine: events, late ones, erasures, hiding, swaps, evictions and failures in any
order, and every answer against a model in plain sets. Real application, models, FAISS indexes and Redis."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from service.settings import Settings
from tests.machine.checks import Tally
from tests.machine.rules import RequestPath
from tests.machine.shop import World, build_world
from tests.processes.redis_processes import RedisProcess

NUM_AFTER_EACH_SLOW = 80
NUM_SLOW = 100_000
MOST_NEEDLESS = 0.1
SOURCES = {"model", *(f"fallback:{step}" for step in ("last_embedding", "similar_items", "segment_popular", "popular"))}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("machine")
    logging.disable(logging.CRITICAL)  # each failure that is made is logged, and there are thousands
    with RedisProcess(directory / "redis") as redis, pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.wiring._MIB", 1)
        patch.setitem(sys.modules, "sniffio", None)  # or the client looks for it in the path with each request
        # so that all three plans are taken in a catalogue this small
        patch.setattr("service.recommend.ranking.planner._FEW_ITEMS", 8)
        yield build_world(directory, redis, Settings(torch_threads=1))
    logging.disable(logging.NOTSET)


def _run(world: World, tally: Tally, *, source: int, num_examples: int, num_steps: int = 50, **more: Any) -> None:
    machine = type("Machine", (RequestPath,), {"world": world, "tally": tally, **more})
    with contextlib.suppress(Flaky):  # it is no failure by itself, and those that are are counted
        run_state_machine_as_test(
            seed(source)(machine),
            settings=settings(
                max_examples=num_examples,
                stateful_step_count=num_steps,
                deadline=None,
                database=None,
                phases=[Phase.generate],  # a step may take a second, and shrinking takes thousands of them
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert not tally.failures, tally.failures[0]


def _check_that_much_happened(tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{tally}")  # noqa: T201
    assert tally.num_events > 100
    assert tally.num_counted > 50
    assert tally.num_encoded > 10
    assert tally.num_swaps > 5
    assert tally.num_merges > 1
    assert tally.num_whole_lists > 3
    assert tally.num_repeated > 20
    assert tally.num_healthy > 50
    # a busy machine may be too slow for a model or a Redis that is well
    assert tally.num_needless <= MOST_NEEDLESS * tally.num_healthy
    assert tally.num_refused <= MOST_NEEDLESS * tally.num_acknowledged


def test_whatever_happens_every_answer_is_admissible_whole_and_current(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()
    # Hypothesis leaves rules out of some examples: a source whose six have all of them
    _run(world, tally, source=4, num_examples=6, num_steps=40)
    _check_that_much_happened(tally, capsys)
    assert tally.num_recommendations >= 1_000


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_whatever_happens_a_hundred_thousand_answers_are_admissible_whole_and_current(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()
    for source in range(30):
        if tally.num_recommendations < NUM_SLOW:
            _run(world, tally, source=source, num_examples=5, num_after_each=NUM_AFTER_EACH_SLOW)
            with capsys.disabled():
                print(f"\n{tally.num_recommendations} of {NUM_SLOW} recommendations", end="")  # noqa: T201
    _check_that_much_happened(tally, capsys)
    assert tally.num_recommendations >= NUM_SLOW
    assert tally.sources.keys() >= SOURCES
