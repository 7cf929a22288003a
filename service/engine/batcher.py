"""Forward passes of concurrent requests, batched, beside the event loop and never in it.

Requests wait in a bounded queue. One task takes what is there (waiting a moment for more), and one worker
thread runs it; while it runs the next batch gathers by itself. A full queue is refused at once, and a
request whose caller has gone is dropped unrun.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from model_store.user_encoder import History, UserEncoder
from service.errors import NotReady, Overloaded

LOGGER = logging.getLogger(__name__)


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


@dataclass(slots=True)
class _Job:
    encoder: UserEncoder
    history: History
    answer: "asyncio.Future[Encoded]"
    asked_at: float = field(default_factory=time.perf_counter)


class EncodeBatcher:
    """Runs user encoders in batches.

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
        if self._is_closed:
            raise NotReady("the service is ending")
        job = _Job(encoder, history, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(job)
        except asyncio.QueueFull:
            self._observer.request_shed()
            raise Overloaded(f"{self._queue.maxsize} requests are waiting for the model") from None
        return await job.answer

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
            try:
                for encoder in {id(job.encoder): job.encoder for job in jobs}.values():
                    await self._serve(encoder, [job for job in jobs if job.encoder is encoder])
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

    async def _serve(self, encoder: UserEncoder, jobs: Sequence[_Job]) -> None:
        jobs = [job for job in jobs if not job.answer.done()]
        if not jobs:
            return
        started = time.perf_counter()
        try:
            embeddings = await self._forward(encoder, [job.history for job in jobs])
        except Exception as error:
            # A task boundary: whoever waits must be told, whatever it was.
            await self._serve_one_by_one(encoder, jobs, error)
            return
        seconds = time.perf_counter() - started
        self._observer.batch_ran(num_users=len(jobs), seconds=seconds)
        for job, embedding in zip(jobs, embeddings, strict=True):
            if not job.answer.done():
                job.answer.set_result(Encoded(embedding, started - job.asked_at, seconds))

    async def _serve_one_by_one(self, encoder: UserEncoder, jobs: Sequence[_Job], error: Exception) -> None:
        """One bad history must not fail its neighbours."""
        if len(jobs) > 1:
            for job in jobs:
                await self._serve(encoder, [job])
            return
        LOGGER.error("the model failed on a history of %d items", len(jobs[0].history.item_indices), exc_info=error)
        if not jobs[0].answer.done():
            jobs[0].answer.set_exception(error)

    async def _forward(self, encoder: UserEncoder, histories: Sequence[History]) -> np.ndarray:
        return await asyncio.get_running_loop().run_in_executor(self._worker, encoder.encode, histories)
