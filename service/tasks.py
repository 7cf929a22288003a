"""Ending tasks that run beside the requests."""

import asyncio
import contextlib
from typing import Any

# A cancelled task has this long to end before it is cancelled again.
_PATIENCE_SECONDS = 0.5


async def end_task(task: "asyncio.Task[Any] | None") -> None:
    """Cancels a task until it has ended: a client library in it may swallow one cancellation, as while it connects.

    Raises:
        Exception: What the task itself ended with.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_PATIENCE_SECONDS)
    if task is not None:
        with contextlib.suppress(asyncio.CancelledError):
            task.result()
