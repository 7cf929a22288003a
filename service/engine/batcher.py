"""What needs the model, beside the event loop and never in it: one worker thread, and forward passes in batches.

Requests wait in a bounded queue. One task takes what is there (waiting a moment for more), and one worker
thread runs it: histories to encode in batches, then other work (generating, explaining, forgetting) piece by
piece. So nothing ever runs beside a model or changes what it keeps while it runs. A full queue is refused at
once, and a request whose caller has gone is dropped unrun.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from model_store.user_encoder import History, UserEncoder
from service.errors import NotReady, Overloaded

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


class BatchObserver(Protocol):
    """Is told what happened, for the metrics."""

    def batch_ran(self, *, num_users: int, seconds: float) -> None:
        """One forward pass is done."""
        ...

    def request_shed(self) -> None:
        """A request was refused because the queue was full."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
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
class Ran(Generic[T]):
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
    answer: "asyncio.Future[Encoded]"
    asked_at: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class _WorkJob:
    work: Callable[[], Any]
    answer: "asyncio.Future[Ran[Any]]"
    asked_at: float = field(default_factory=time.perf_counter)


_Job = _EncodeJob | _WorkJob


class EncodeBatcher:
    """Runs user encoders in batches, and other work on the same thread.

    Args:
        max_users: Of one forward pass.
        max_wait_seconds: How long the first of a batch waits for others.
        max_waiting: Queued beyond this, a request is refused.
        observer: Is told about batches and refusals.
    """

    def __init__(self, *, max_users: int, max_wait_seconds: float, max_waiting: int, observer: BatchObserver) -> None:
        self._max_users = max_users
        self._max_wait_seconds = max_wait_seconds
        self._observer = observer
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(max_waiting)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hatstand-model")
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
    def is_running(self) -> bool:
        """Whether somebody serves the queue."""
        return self._task is not None and not self._task.done()

    async def encode(self, encoder: UserEncoder, history: History) -> Encoded:
        """Encodes one history together with those of concurrent requests.

        Raises:
            Overloaded: The queue is full.
            NotReady: The service is ending.
            Exception: What the encoder raised for this history.
        """
        job = _EncodeJob(encoder, history, asyncio.get_running_loop().create_future())
        await self._submit(job, waits=False)
        return await job.answer

    async def run(self, work: Callable[[], T], *, waits: bool = False) -> Ran[T]:
        """Runs a function on the model's thread, after the histories that were waiting before it.

        Args:
            work: Returns the value. What it raises reaches the caller.
            waits: For a place in a full queue, instead of being refused.

        Raises:
            Overloaded: The queue is full, and it does not wait.
            NotReady: The service is ending.
        """
        job = _WorkJob(work, asyncio.get_running_loop().create_future())
        await self._submit(job, waits=waits)
        return await job.answer

    async def _submit(self, job: _Job, *, waits: bool) -> None:
        """Queues a job; without ``waits`` this happens before anything else runs in the event loop."""
        if self._is_closed:
            raise NotReady("the service is ending")
        if waits:
            await self._queue.put(job)
            return
        try:
            self._queue.put_nowait(job)
        except asyncio.QueueFull:
            self._observer.request_shed()
            raise Overloaded(f"{self._queue.maxsize} requests are waiting for the model") from None

    async def aclose(self) -> None:
        """Serves what is queued, then ends."""
        self._is_closed = True
        if self._task is not None:
            await self._queue.join()
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._worker.shutdown()

    async def _run(self) -> None:
        while True:
            jobs = await self._gather()
            encodes = [job for job in jobs if isinstance(job, _EncodeJob)]
            try:
                for encoder in {id(job.encoder): job.encoder for job in encodes}.values():
                    await self._encode([job for job in encodes if job.encoder is encoder])
                for job in jobs:
                    if isinstance(job, _WorkJob):
                        await self._work(job)
            finally:
                for _ in jobs:
                    self._queue.task_done()

    async def _gather(self) -> list[_Job]:
        jobs = [await self._queue.get()]
        deadline = time.perf_counter() + self._max_wait_seconds
        while len(jobs) < self._max_users:
            if self._queue.empty():
                remaining = deadline - time.perf_counter()
                if remaining <= 0:
                    break
                await asyncio.sleep(min(remaining, 0.0005))
            else:
                jobs.append(self._queue.get_nowait())
        return jobs

    async def _work(self, job: _WorkJob) -> None:
        if job.answer.done():
            return
        started = time.perf_counter()
        try:
            value = await self._on_worker(job.work)
        except Exception as error:
            # A task boundary: whoever waits must be told, whatever it was.
            if not job.answer.done():
                job.answer.set_exception(error)
            return
        if not job.answer.done():
            job.answer.set_result(Ran(value, started - job.asked_at, time.perf_counter() - started))

    async def _encode(self, jobs: Sequence[_EncodeJob]) -> None:
        """Encodes histories of one encoder."""
        jobs = [job for job in jobs if not job.answer.done()]
        if not jobs:
            return
        started = time.perf_counter()
        histories = [job.history for job in jobs]
        try:
            embeddings = await self._on_worker(lambda: jobs[0].encoder.encode(histories))
        except Exception as error:
            # The same boundary.
            await self._encode_one_by_one(jobs, error)
            return
        seconds = time.perf_counter() - started
        self._observer.batch_ran(num_users=len(jobs), seconds=seconds)
        for job, embedding in zip(jobs, embeddings, strict=True):
            if not job.answer.done():
                job.answer.set_result(Encoded(embedding, started - job.asked_at, seconds))

    async def _encode_one_by_one(self, jobs: Sequence[_EncodeJob], error: Exception) -> None:
        """One bad history must not fail its neighbours."""
        if len(jobs) > 1:
            for job in jobs:
                await self._encode([job])
            return
        LOGGER.error("the model failed on a history of %d items", len(jobs[0].history.item_indices), exc_info=error)
        if not jobs[0].answer.done():
            jobs[0].answer.set_exception(error)

    async def _on_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)
