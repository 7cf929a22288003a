"""What the parent says and does for all workers at once: one page of metrics, one readiness, one reload."""

import asyncio
from collections.abc import Sequence
from typing import Any

from service.metrics.merged import counts, merge
from service.metrics.workers import WorkerMetrics
from service.workers.channel import PeerFailed
from service.workers.process import WorkerProcess

_PAGE_SECONDS = 3.0
_RELOAD_SECONDS = 3_600.0


class Everyone:
    """The workers that there are.

    Args:
        num_workers: How many there are to be.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._workers: dict[int, WorkerProcess] = {}
        self._metrics = WorkerMetrics(num_workers)
        # The counters of workers that are gone: a sum that falls would look like a restart of all.
        self._departed = ""
        self.num_reloads = 0
        self.has_served = False

    @property
    def alive(self) -> Sequence[WorkerProcess]:
        """Workers whose process runs."""
        return list(self._workers.values())

    @property
    def serving(self) -> Sequence[WorkerProcess]:
        """Workers that take connections, by number."""
        return [worker for _, worker in sorted(self._workers.items()) if worker.is_serving]

    def came(self, worker: WorkerProcess) -> None:
        """A worker's process has started."""
        self._workers[worker.number] = worker

    def left(self, worker: WorkerProcess) -> None:
        """A worker's process has ended."""
        del self._workers[worker.number]
        self._metrics.worker_ended()
        if worker.page:
            self._departed = counts(merge([self._departed, worker.page]))

    async def catch_up(self, worker: WorkerProcess) -> None:
        """Has a worker that begins to serve load what others were told to load meanwhile."""
        self.has_served = True
        while worker.num_reloads < self.num_reloads:
            worker.num_reloads = self.num_reloads
            await _reload(worker)

    async def look(self) -> None:
        """Asks every worker that serves how it is."""
        await asyncio.gather(*(worker.look() for worker in self.serving))

    async def answer(self, question: str, asking: WorkerProcess) -> Any:
        """Answers the question of a worker: ``metrics``, ``readiness`` or ``reload``.

        Raises:
            PeerFailed: There is no such question.
        """
        if question == "metrics":
            return await self._page()
        if question == "readiness":
            return await self._readiness()
        if question == "reload":
            self.num_reloads += 1
            others = [worker for worker in self.serving if worker is not asking]
            return [problem for problem in await asyncio.gather(*map(_reload, others)) if problem]
        raise PeerFailed(f"unknown question {question!r}")

    async def _page(self) -> str:
        await asyncio.gather(*(_read_page(worker) for worker in self.serving))
        num_ready = sum(worker.is_ready for worker in self.serving)
        pages = [worker.page for worker in self.serving if worker.page]
        return merge([*pages, self._departed, self._metrics.render(num_ready=num_ready)])

    async def _readiness(self) -> dict[str, Any]:
        await self.look()
        reports = {worker.number: worker.report for worker in self.serving}
        checks: dict[str, str] = {}
        refused: dict[str, Any] = {}
        for number, report in reports.items():
            told = report["checks"] if report else {"worker": "the worker does not answer"}
            for part, check in told.items():
                if check != "ok":
                    checks[part] = check if part in checks else f"worker {number}: {check}"
                else:
                    checks.setdefault(part, "ok")
            refused |= report["refused"] if report else {}
        num_ready = sum(worker.is_ready for worker in self.serving)
        is_whole = num_ready == self._num_workers and all(
            report is not None and report["status"] == "ready" for report in reports.values()
        )
        return {
            "status": "ready" if is_whole else "degraded" if num_ready else "not_ready",
            "checks": checks,
            "refused": refused,
            "workers": {"ready": num_ready, "of": self._num_workers},
        }


async def _read_page(worker: WorkerProcess) -> None:
    try:
        worker.page = await worker.ask("metrics", timeout_seconds=_PAGE_SECONDS)
    except PeerFailed:
        return  # The last page stands for its counters.


async def _reload(worker: WorkerProcess) -> str | None:
    """Has a worker load what the store names; why it does not serve that, or None."""
    try:
        problem: str | None = await worker.ask("reload", timeout_seconds=_RELOAD_SECONDS)
    except PeerFailed:
        return None  # The worker is gone, and its replacement loads what the store names.
    return None if problem is None else f"worker {worker.number}: {problem}"
