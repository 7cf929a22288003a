"""Notices by itself that another bundle was published: asks the store's small live pointer every few seconds."""

import asyncio
import logging
import random
import time

from service.engine.live_bundles import LiveBundles
from service.engine.loading import give_back_memory, in_own_thread
from service.tasks import end_task

LOGGER = logging.getLogger(__name__)

# Replicas that were started together must not ask together, nor load together.
_JITTER = 0.25


class StoreFollower:
    """Keeps the live bundles at what the store names.

    The pointer is a hundred bytes, so it is read whole: no time stamp or tag of a store is finer than its content.

    Args:
        bundles: What is to follow.
        every_seconds: Between two looks, a quarter more or less; 0 never looks.
    """

    def __init__(self, bundles: LiveBundles, *, every_seconds: float) -> None:
        self._bundles = bundles
        self._every_seconds = every_seconds
        self._task: asyncio.Task[None] | None = None
        self._last_look = time.time()

    @property
    def last_look(self) -> float:
        """When the store last answered, in seconds since 1970."""
        return self._last_look

    def start(self) -> None:
        """Begins to look; call it in the event loop."""
        if self._every_seconds > 0:
            self._task = asyncio.create_task(self._run(), name="hatstand-follower")

    async def aclose(self) -> None:
        """Stops looking."""
        await end_task(self._task)

    async def _run(self) -> None:
        num_draining = 0
        while True:
            await asyncio.sleep(self._every_seconds * random.uniform(1 - _JITTER, 1 + _JITTER))
            try:
                await self._bundles.follow()
            except Exception:
                # A task boundary: whatever happened, the next look comes.
                LOGGER.exception("following the store failed")
                continue
            if self._bundles.pointer_problem is None:
                self._last_look = time.time()
            was_draining, num_draining = num_draining, len(self._bundles.draining)
            if num_draining < was_draining:
                await in_own_thread(give_back_memory, name="hatstand-trim")
