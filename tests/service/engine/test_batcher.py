"""The batcher: batches what is concurrent, bounds what waits, and tells everybody who waits."""

import asyncio
import math
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from model_store.people.histories import History
from service.engine.batcher import EncodeBatcher
from service.errors import DeadlineExceeded, ModelUnavailable, NotReady, Overloaded


@dataclass
class SumEncoder:
    """Its embedding is the sum of the item indices; -1 in a history breaks it. Holds until ``gate`` opens."""

    max_history_length: int = 8
    embedding_dim: int = 1
    kept_bytes: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        assert self.gate.wait(10)
        self.threads.add(threading.current_thread().name)
        if any((history.item_indices < 0).any() for history in histories):
            raise ValueError("broken history")
        self.batches.append(len(histories))
        return np.array([[history.item_indices.sum()] for history in histories], dtype=np.float32)

    def window(self, num_items: int) -> int:
        return min(num_items, self.max_history_length)

    def explain(self, history: History) -> np.ndarray:
        return np.full(len(history.item_indices), 1 / len(history.item_indices), dtype=np.float32)

    def forget_all(self) -> None:
        pass

    def forget(self, _owner: str) -> bool:
        return False


@dataclass
class Counts:
    users: int = 0
    waited: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def shed(self) -> int:
        return len(self.reasons)

    def batch_ran(self, *, num_users: int, seconds: float) -> None:
        assert seconds >= 0
        self.users += num_users

    def request_waited(self, seconds: float) -> None:
        assert seconds >= 0
        self.waited += 1

    def request_shed(self, reason: str) -> None:
        self.reasons.append(reason)


@asynccontextmanager
async def running(
    counts: Counts, *, max_users: int = 4, max_waiting: int = 100, stuck_seconds: float = math.inf
) -> AsyncIterator[EncodeBatcher]:
    batcher = EncodeBatcher(
        max_users=max_users,
        max_wait_seconds=0.001,
        max_waiting=max_waiting,
        observer=counts,
        stuck_seconds=stuck_seconds,
    )
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.aclose()


def _history(*items: int) -> History:
    return History(np.array(items, dtype=np.int64), np.zeros(len(items), dtype=np.int64))


async def test_concurrent_histories_share_forward_passes_and_get_their_own_embedding() -> None:
    encoder, counts = SumEncoder(), Counts()
    async with running(counts) as batcher:
        asked = [asyncio.create_task(batcher.encode(encoder, _history(number, 1))) for number in range(10)]
        await asyncio.sleep(0.01)
        encoder.gate.set()
        answers = await asyncio.gather(*asked)
    assert [answer.embedding.tolist() for answer in answers] == [[number + 1] for number in range(10)]
    assert encoder.batches == [4, 4, 2]
    assert counts.users == 10
    assert answers[-1].queue_seconds > 0


async def test_the_model_never_runs_in_the_event_loop() -> None:
    encoder = SumEncoder()
    encoder.gate.set()
    async with running(Counts()) as batcher:
        await asyncio.gather(*(batcher.encode(encoder, _history(1)) for _ in range(20)))
    (name,) = encoder.threads
    assert name.startswith("hatstand-model")


async def test_what_the_queue_cannot_hold_is_refused_at_once() -> None:
    encoder, counts = SumEncoder(), Counts()
    async with running(counts, max_users=1, max_waiting=2) as batcher:
        asked = [asyncio.create_task(batcher.encode(encoder, _history(1)))]
        await asyncio.sleep(0.02)  # in the worker now
        asked += [asyncio.create_task(batcher.encode(encoder, _history(1))) for _ in range(2)]
        await asyncio.sleep(0)
        assert batcher.num_waiting == 2
        with pytest.raises(Overloaded):
            await batcher.encode(encoder, _history(1))
        encoder.gate.set()
        assert len(await asyncio.gather(*asked)) == 3
    assert counts.shed == 1


async def test_one_broken_history_fails_alone() -> None:
    encoder = SumEncoder()
    async with running(Counts()) as batcher:
        asked = [asyncio.create_task(batcher.encode(encoder, _history(item))) for item in (1, -1, 3)]
        await asyncio.sleep(0.01)
        encoder.gate.set()
        first, broken, last = await asyncio.gather(*asked, return_exceptions=True)
        assert (await batcher.encode(encoder, _history(4))).embedding[0] == 4
    assert isinstance(broken, ValueError)
    assert not isinstance(first, BaseException)
    assert not isinstance(last, BaseException)
    assert (first.embedding[0], last.embedding[0]) == (1, 3)


async def test_a_request_whose_caller_is_gone_is_not_run() -> None:
    encoder, counts = SumEncoder(), Counts()
    async with running(counts, max_users=1) as batcher:
        first = asyncio.create_task(batcher.encode(encoder, _history(1)))
        gone = asyncio.create_task(batcher.encode(encoder, _history(2)))
        await asyncio.sleep(0.02)
        gone.cancel()
        encoder.gate.set()
        await first
    assert counts.users == 1


async def test_histories_of_two_encoders_do_not_meet_in_one_pass() -> None:
    one, other = SumEncoder(), SumEncoder()
    one.gate.set()
    other.gate.set()
    async with running(Counts()) as batcher:
        await asyncio.gather(*(batcher.encode(encoder, _history(1)) for encoder in (one, other, one, other)))
    assert sum(one.batches) == sum(other.batches) == 2


async def test_closing_serves_what_waits_and_refuses_what_comes() -> None:
    encoder = SumEncoder()
    async with running(Counts(), max_users=1) as batcher:
        asked = [asyncio.create_task(batcher.encode(encoder, _history(number))) for number in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.aclose())
        await asyncio.sleep(0)
        with pytest.raises(NotReady):
            await batcher.encode(encoder, _history(1))
        encoder.gate.set()
        await closing
        assert [answer.embedding[0] for answer in await asyncio.gather(*asked)] == [0, 1, 2]


async def test_other_work_runs_on_the_models_thread_after_the_histories_that_waited_before_it() -> None:
    encoder, order = SumEncoder(), []

    def work() -> str:
        order.append(len(encoder.batches))
        encoder.threads.add(threading.current_thread().name)
        return "done"

    async with running(Counts()) as batcher:
        asked = [asyncio.create_task(batcher.encode(encoder, _history(number))) for number in range(3)]
        await asyncio.sleep(0)
        worked = asyncio.create_task(batcher.run(work))
        encoder.gate.set()
        await asyncio.gather(*asked)
        ran = await worked
    assert ran.value == "done"
    assert ran.queue_seconds > 0
    assert order == [1]
    (name,) = encoder.threads
    assert name.startswith("hatstand-model")


async def test_work_that_fails_fails_alone_and_in_its_own_words() -> None:
    def work() -> None:
        raise ValueError("broken work")

    encoder = SumEncoder()
    encoder.gate.set()
    async with running(Counts()) as batcher:
        broken, encoded, good = await asyncio.gather(
            batcher.run(work), batcher.encode(encoder, _history(5)), batcher.run(lambda: 7), return_exceptions=True
        )
    assert isinstance(broken, ValueError)
    assert not isinstance(encoded, BaseException)
    assert encoded.embedding[0] == 5
    assert not isinstance(good, BaseException)
    assert good.value == 7


async def test_work_has_the_same_bound_unless_it_may_wait() -> None:
    gate, counts = threading.Event(), Counts()
    async with running(counts, max_users=1, max_waiting=1) as batcher:
        asked = [asyncio.create_task(batcher.run(lambda: gate.wait(10)))]
        await asyncio.sleep(0.02)  # in the worker now
        asked.append(asyncio.create_task(batcher.run(lambda: gate.wait(10))))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.run(lambda: True)
        asked.append(asyncio.create_task(batcher.run(lambda: True, waits=True)))
        await asyncio.sleep(0)
        gate.set()
        assert [ran.value for ran in await asyncio.gather(*asked)] == [True, True, True]
    assert counts.shed == 1


async def test_work_whose_caller_is_gone_is_not_done() -> None:
    gate, done = threading.Event(), []
    async with running(Counts(), max_users=1) as batcher:
        first = asyncio.create_task(batcher.run(lambda: gate.wait(10)))
        gone = asyncio.create_task(batcher.run(lambda: done.append(1)))
        await asyncio.sleep(0.02)
        gone.cancel()
        gate.set()
        await first
    assert done == []


async def _measure(batcher: EncodeBatcher, seconds: float, *, times: int = 3) -> None:
    """Teaches the batcher how long a forward pass of one takes."""
    for _ in range(times):
        await batcher.encode(SleepEncoder(seconds), _history(1))


class SleepEncoder(SumEncoder):
    """Takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.gate.set()
        self.seconds = seconds

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        time.sleep(self.seconds)
        return super().encode(histories)


async def test_a_deadline_that_the_queue_cannot_meet_is_refused_at_once_with_the_time_to_wait() -> None:
    counts = Counts()
    async with running(counts, max_users=1) as batcher:
        await _measure(batcher, 0.2)
        encoder = SleepEncoder(0.2)
        asked = [asyncio.create_task(batcher.encode(encoder, _history(1))) for _ in range(15)]
        await asyncio.sleep(0.01)  # 3 s of work
        started = time.monotonic()
        with pytest.raises(Overloaded, match="ms of work") as refused:
            await batcher.encode(encoder, _history(1), deadline=started + 1.5)
        assert time.monotonic() - started < 1
        assert refused.value.retry_after_seconds in {2, 3}
        assert counts.reasons == ["deadline"]
        # one that has the time is taken
        assert (await batcher.encode(encoder, _history(1), deadline=started + 30)).queue_seconds > 1
        await asyncio.gather(*asked)


async def test_a_queue_of_batches_is_not_taken_for_one_of_single_users() -> None:
    async with running(Counts(), max_users=32) as batcher:
        await _measure(batcher, 0.2)
        encoder = SleepEncoder(0.2)
        deadline = time.monotonic() + 3
        # one after the other these would take eight seconds; in batches they take two passes
        answers = await asyncio.gather(
            *(batcher.encode(encoder, _history(number), deadline=deadline) for number in range(40))
        )
    assert len(answers) == 40


async def test_what_was_never_measured_is_not_refused() -> None:
    async with running(Counts(), max_users=1) as batcher:
        deadline = time.monotonic() + 5
        encoder = SleepEncoder(0.001)
        await asyncio.gather(*(batcher.encode(encoder, _history(1), deadline=deadline) for _ in range(50)))


async def test_what_expired_in_the_queue_is_dropped_unrun() -> None:
    encoder, counts = SumEncoder(), Counts()
    async with running(counts, max_users=1) as batcher:
        first = asyncio.create_task(batcher.encode(encoder, _history(1)))
        await asyncio.sleep(0.02)
        late = asyncio.create_task(batcher.encode(encoder, _history(2), deadline=time.monotonic() + 0.05))
        work = asyncio.create_task(batcher.run(lambda: 1, deadline=time.monotonic() + 0.05))
        await asyncio.sleep(0.1)
        encoder.gate.set()
        await first
        for expired in (late, work):
            with pytest.raises(DeadlineExceeded):
                await expired
    assert encoder.batches == [1]
    assert counts.reasons == ["expired", "expired"]


async def test_while_the_thread_is_stuck_requests_are_refused_at_once_and_served_again_afterwards() -> None:
    encoder, counts = SumEncoder(), Counts()
    async with running(counts, stuck_seconds=0.1) as batcher:
        first = asyncio.create_task(batcher.encode(encoder, _history(1)))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            with pytest.raises(ModelUnavailable):
                await batcher.encode(encoder, _history(1))
        encoder.gate.set()
        await first
        assert (await batcher.encode(encoder, _history(3))).embedding[0] == 3
    assert counts.reasons == ["model_unavailable"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_what_would_end_a_thread_ends_neither_the_thread_nor_the_event_loop(error: type[BaseException]) -> None:
    def die() -> None:
        raise error("killed")

    encoder = SumEncoder()
    encoder.gate.set()
    async with running(Counts(), max_users=1) as batcher:
        killed = asyncio.create_task(batcher.run(die))
        waiting = [asyncio.create_task(batcher.encode(encoder, _history(number))) for number in range(3)]
        with pytest.raises(ModelUnavailable, match=error.__name__):
            await killed
        assert [answer.embedding[0] for answer in await asyncio.gather(*waiting)] == [0, 1, 2]


async def test_the_first_of_a_batch_waits_for_others_only_if_told_to() -> None:
    for max_wait_seconds, batches in ((0.0, [1, 1]), (0.2, [2])):
        encoder = SumEncoder()
        encoder.gate.set()
        batcher = EncodeBatcher(max_users=8, max_wait_seconds=max_wait_seconds, max_waiting=9, observer=Counts())
        batcher.start()
        first = asyncio.create_task(batcher.encode(encoder, _history(1)))
        if max_wait_seconds:
            await asyncio.sleep(0.01)
        else:
            await first
        await batcher.encode(encoder, _history(2))
        await first
        assert encoder.batches == batches
        await batcher.aclose()


async def test_closing_does_not_wait_for_a_stuck_thread_for_ever() -> None:
    encoder = SumEncoder()
    batcher = EncodeBatcher(max_users=1, max_wait_seconds=0, max_waiting=9, observer=Counts())
    batcher.start()
    asked = [asyncio.create_task(batcher.encode(encoder, _history(1))) for _ in range(3)]
    await asyncio.sleep(0.02)
    started = time.monotonic()
    await batcher.aclose(0.2)
    assert time.monotonic() - started < 5
    for one in asked:
        with pytest.raises(NotReady):
            await one
    encoder.gate.set()


async def test_an_answer_leaves_nothing_of_its_encoder_behind() -> None:
    encoder = SleepEncoder(0.0)
    async with running(Counts()) as batcher:
        await batcher.encode(encoder, _history(1))
        await batcher.run(lambda held=encoder: held.embedding_dim)
        gone = weakref.ref(encoder)
        del encoder
        await asyncio.sleep(0.05)
        assert gone() is None
