"""What needs the model, beside the event loop and never in it: one worker thread, and forward passes in batches.

Requests wait in a bounded queue. One task takes what is there (waiting a moment for more), and one worker
thread runs it: histories to encode in batches, then other work (generating, explaining, forgetting) piece by
piece. So nothing ever runs beside a model or changes what it keeps while it runs. What cannot be done in time is
refused at once: the queue is full, it is too long for the request's deadline, or the thread is stuck. A request whose
caller has gone, or whose deadline has passed, is dropped unrun.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from model_store.encoding import UserEncoder
from model_store.people.histories import History
from service.engine.model_thread import ModelThread
from service.engine.queue_time import QueueTime
from service.errors import DeadlineExceeded, ModelUnavailable, NotReady, Overloaded
from service.tasks import end_task

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

ShedReason = Literal["queue_full", "deadline", "expired", "model_unavailable"]

_MAX_RETRY_AFTER_SECONDS = 60
_CLOSE_SECONDS = 30.0


class BatchObserver(Protocol):
    """Is told what happened, for the metrics."""

    def batch_ran(self, *, num_users: int, seconds: float) -> None:
        """One forward pass is done."""
        ...

    def request_waited(self, seconds: float) -> None:
        """A request's turn came after so long."""
        ...

    def request_shed(self, reason: ShedReason) -> None:
        """A request was refused, or dropped unrun."""
        ...


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """One user's embedding and what it took.

    Attributes:
        embedding: (D,) float32, unit-norm.
        queue_seconds: From asking to the start of the forward pass.
        encode_seconds: The forward pass of the whole batch.
    """

    embedding: np.ndarray
    queue_seconds: float
    encode_seconds: float


@dataclass(frozen=True, slots=True)
class WorkResult(Generic[T]):
    """What a piece of work returned, and what it took.

    Attributes:
        value: What it returned.
        queue_seconds: From asking to its start.
        run_seconds: The work itself.
    """

    value: T
    queue_seconds: float
    run_seconds: float


@dataclass(slots=True)
class _EncodeJob:
    encoder: UserEncoder
    history: History
    answer: "asyncio.Future[EncodeResult]"
    deadline: float
    asked_at: float = field(default_factory=time.monotonic)

    @property
    def kind(self) -> Hashable:
        """What takes equally long."""
        return type(self.encoder)


@dataclass(slots=True)
class _WorkJob:
    work: Callable[[], Any]
    answer: "asyncio.Future[WorkResult[Any]]"
    deadline: float
    asked_at: float = field(default_factory=time.monotonic)

    @property
    def kind(self) -> Hashable:
        """What takes equally long: the place in the code that asks."""
        return getattr(self.work, "__qualname__", type(self.work).__qualname__)


_Job = _EncodeJob | _WorkJob


class EncodeBatcher:
    """Runs user encoders in batches, and other work on the same thread.

    Args:
        max_users: Of one forward pass.
        max_wait_seconds: How long the first of a batch waits for others; while the model runs, a batch gathers anyway.
        max_waiting: Queued beyond this, a request is refused.
        observer: Is told about batches and refusals.
        stuck_seconds: While one piece of work has been running longer than this, requests are refused.
    """

    def __init__(
        self,
        *,
        max_users: int,
        max_wait_seconds: float,
        max_waiting: int,
        observer: BatchObserver,
        stuck_seconds: float = math.inf,
    ) -> None:
        self._max_users = max_users
        self._max_wait_seconds = max_wait_seconds
        self._observer = observer
        self._stuck_seconds = stuck_seconds
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(max_waiting)
        self._times = QueueTime(max_users=max_users)
        self._running_until = 0.0
        self._last_encoded = -math.inf
        self.thread = ModelThread()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begins to serve; call it in the event loop."""
        self._task = asyncio.create_task(self._run(), name="hatstand-batcher")

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.qsize()

    @property
    def waiting_seconds(self) -> float:
        """Expected until all that waits now is done."""
        return self._remaining_seconds() + self._times.waiting_seconds()

    @property
    def last_encoded(self) -> float:
        """When a forward pass of a request ended well, in ``time.monotonic()`` seconds; -inf before the first."""
        return self._last_encoded

    async def encode(self, encoder: UserEncoder, history: History, *, deadline: float | None = None) -> EncodeResult:
        """Encodes one history together with those of concurrent requests.

        Args:
            encoder: Of the bundle that answers.
            history: At least one item.
            deadline: In ``time.monotonic()`` seconds; the embedding is of no use afterwards.

        Raises:
            Overloaded: The queue is full, or too long for the deadline.
            DeadlineExceeded: The deadline passed while it waited.
            ModelUnavailable: The thread is stuck.
            NotReady: The service is ending.
            Exception: What the encoder raised for this history.
        """
        job = _EncodeJob(encoder, history, asyncio.get_running_loop().create_future(), _instant(deadline))
        await self._submit(job, waits=False)
        return await job.answer

    async def run(self, work: Callable[[], T], *, waits: bool = False, deadline: float | None = None) -> WorkResult[T]:
        """Runs a function on the model's thread, after the histories that were waiting before it.

        Args:
            work: Returns the value. What it raises reaches the caller.
            waits: For a place in a full queue, instead of being refused.
            deadline: As in ``encode``.

        Raises:
            Overloaded: The queue is full, or too long for the deadline, and it does not wait.
            DeadlineExceeded, ModelUnavailable, NotReady: As in ``encode``.
        """
        job = _WorkJob(work, asyncio.get_running_loop().create_future(), _instant(deadline))
        await self._submit(job, waits=waits)
        return await job.answer

    async def _submit(self, job: _Job, *, waits: bool) -> None:
        """Queues a job; without ``waits`` this happens before anything else runs in the event loop."""
        if self._is_closed:
            raise NotReady("the service is ending")
        if waits:
            await self._queue.put(job)
        else:
            self._refuse_what_is_hopeless(job)
            self._queue.put_nowait(job)
        if isinstance(job, _EncodeJob):
            self._times.user_came(job.kind)
        else:
            self._times.work_came(job.kind)

    def _refuse_what_is_hopeless(self, job: _Job) -> None:
        busy_seconds = self.thread.busy_seconds
        if busy_seconds > self._stuck_seconds:
            self._observer.request_shed("model_unavailable")
            raise ModelUnavailable(f"the model has not answered for {busy_seconds:.1f} s")
        if self._queue.full():
            self._observer.request_shed("queue_full")
            raise Overloaded(
                f"{self._queue.maxsize} requests are waiting for the model",
                retry_after_seconds=_whole_seconds(self.waiting_seconds),
            )
        if job.deadline == math.inf:
            return
        needed = self._remaining_seconds() + (
            self._times.waiting_seconds(another=job.kind)
            if isinstance(job, _EncodeJob)
            else self._times.waiting_seconds(another_work=job.kind)
        )
        left = job.deadline - time.monotonic()
        if needed > left:
            self._observer.request_shed("deadline")
            raise Overloaded(
                f"{self.num_waiting} requests are waiting for the model, about {needed * 1_000:.0f} ms of work, "
                f"and {max(left, 0) * 1_000:.0f} ms are left",
                retry_after_seconds=_whole_seconds(needed - max(left, 0)),
            )

    def _remaining_seconds(self) -> float:
        """Of what runs now."""
        return max(self._running_until - time.monotonic(), 0.0)

    async def aclose(self, timeout_seconds: float = _CLOSE_SECONDS) -> None:
        """Serves what is queued, then ends; what is not served within the timeout fails."""
        self._is_closed = True
        ends_at = time.monotonic() + timeout_seconds
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._queue.join()
            await end_task(self._task)
            while not self._queue.empty():
                _tell(self._queue.get_nowait(), NotReady("the service is ending"))
        left = max(ends_at - time.monotonic(), 0.0)
        if not await asyncio.to_thread(self.thread.close, left):
            LOGGER.error("the model did not end within %.0f s; its thread ends with the process", timeout_seconds)

    async def _run(self) -> None:
        while True:
            await self._serve(await self._gather())

    async def _serve(self, jobs: Sequence[_Job]) -> None:
        encodes = [job for job in jobs if isinstance(job, _EncodeJob)]
        try:
            for encoder in {id(job.encoder): job.encoder for job in encodes}.values():
                await self._encode([job for job in encodes if job.encoder is encoder])
            for job in jobs:
                if isinstance(job, _WorkJob):
                    await self._work(job)
        except asyncio.CancelledError:
            for job in jobs:
                _tell(job, NotReady("the service is ending"))
            raise
        finally:
            for _ in jobs:
                self._queue.task_done()

    async def _gather(self) -> list[_Job]:
        jobs = [await self._queue.get()]
        if self._max_wait_seconds and self._queue.qsize() + 1 < self._max_users:
            # Once: an event loop turns shorter pauses into none, and would spin.
            await asyncio.sleep(self._max_wait_seconds)
        while len(jobs) < self._max_users and not self._queue.empty():
            jobs.append(self._queue.get_nowait())
        for job in jobs:
            if isinstance(job, _EncodeJob):
                self._times.user_left(job.kind)
            else:
                self._times.work_left(job.kind)
        return jobs

    def _is_wanted(self, job: _Job) -> bool:
        """Whether somebody still waits for it, and can still use it."""
        if job.answer.done():
            return False
        if time.monotonic() < job.deadline:
            return True
        self._observer.request_shed("expired")
        _tell(job, DeadlineExceeded("the deadline passed while the request waited for the model"))
        return False

    async def _work(self, job: _WorkJob) -> None:
        if not self._is_wanted(job):
            return
        started = time.monotonic()
        self._observer.request_waited(started - job.asked_at)
        self._running_until = started + self._times.work_seconds(job.kind)
        try:
            value = await asyncio.wrap_future(self.thread.submit(job.work))
        except Exception as error:
            # A task boundary: whoever waits must be told, whatever it was.
            _tell(job, error)
            return
        seconds = time.monotonic() - started
        self._times.work_ran(job.kind, seconds)
        if not job.answer.done():
            job.answer.set_result(WorkResult(value, started - job.asked_at, seconds))

    async def _encode(self, jobs: Sequence[_EncodeJob]) -> None:
        """Encodes histories of one encoder."""
        jobs = [job for job in jobs if self._is_wanted(job)]
        if not jobs:
            return
        started = time.monotonic()
        encoder, kind, histories = jobs[0].encoder, jobs[0].kind, [job.history for job in jobs]
        self._running_until = started + self._times.batch_seconds(kind, len(jobs))
        try:
            embeddings = await asyncio.wrap_future(self.thread.submit(lambda: encoder.encode(histories)))
        except Exception as error:
            # The same boundary.
            await self._encode_one_by_one(jobs, error)
            return
        ended = self._last_encoded = time.monotonic()
        seconds = ended - started
        self._observer.batch_ran(num_users=len(jobs), seconds=seconds)
        self._times.batch_ran(kind, num_users=len(jobs), seconds=seconds)
        for job, embedding in zip(jobs, embeddings, strict=True):
            self._observer.request_waited(started - job.asked_at)
            if not job.answer.done():
                job.answer.set_result(EncodeResult(embedding, started - job.asked_at, seconds))

    async def _encode_one_by_one(self, jobs: Sequence[_EncodeJob], error: Exception) -> None:
        """One bad history must not fail its neighbours."""
        if len(jobs) > 1:
            for job in jobs:
                await self._encode([job])
            return
        LOGGER.error("the model failed on a history of %d items", len(jobs[0].history.item_indices), exc_info=error)
        _tell(jobs[0], error)


def _instant(deadline: float | None) -> float:
    return math.inf if deadline is None else deadline


def _whole_seconds(seconds: float) -> int:
    return min(max(math.ceil(seconds), 1), _MAX_RETRY_AFTER_SECONDS)


def _tell(job: _Job, error: Exception) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
