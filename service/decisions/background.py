"""Work beside the requests: a bounded queue, and one task that takes some of it at a time."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from service.tasks import end_task

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


class BackgroundQueue(Generic[T]):
    """Hands over what was put into it, later and together. For the event loop.

    Args:
        name: Of the task, for the log.
        handle: Takes at most ``at_once`` things. An error of it is logged and ends nothing.
        max_waiting: Beyond so many waiting things, further ones are refused.
        at_once: How many it is given.
        delay_seconds: Before each time: what comes meanwhile is handed over with the rest.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[T]], Awaitable[None]],
        *,
        max_waiting: int,
        at_once: int,
        delay_seconds: float,
    ) -> None:
        self._name = name
        self._handle = handle
        self._max_waiting = max_waiting
        self._at_once = at_once
        self._delay_seconds = delay_seconds
        self._waiting: deque[T] = deque()
        self._wake = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Begins to hand over."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    def put(self, thing: T) -> bool:
        """Takes a thing; False if too many wait. Never waits itself."""
        if len(self._waiting) >= self._max_waiting:
            return False
        self._waiting.append(thing)
        self._wake.set()
        return True

    async def aclose(self, within_seconds: float) -> None:
        """Ends once everything that waits was handed over, or the time is over."""
        if self._task is None:
            return
        self._is_closing = True
        self._wake.set()
        _, late = await asyncio.wait({self._task}, timeout=within_seconds)
        if late:
            LOGGER.warning("%s ends with %d waiting", self._name, len(self._waiting))
            await end_task(self._task)

    async def _run(self) -> None:
        while self._waiting or not self._is_closing:
            await self._wake.wait()
            while self._waiting:
                if not self._is_closing:
                    await asyncio.sleep(self._delay_seconds)
                await self._hand_over_some()
            if not self._is_closing:
                self._wake.clear()

    async def _hand_over_some(self) -> None:
        """Of its own, so that what was handed over, and a bundle that it names, is not held until the next time."""
        some = [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]
        try:
            await self._handle(some)
        except Exception:
            # A boundary: what comes after it must not suffer.
            LOGGER.exception("%s failed", self._name)
