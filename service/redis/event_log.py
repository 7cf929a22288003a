"""How full the event log is: nothing that waits in it is ever dropped, so somebody has to see when it fills up."""

import asyncio
import logging
import time
from dataclasses import asdict, dataclass
from typing import Protocol

from model_store.people.event_log import stream_key
from model_store.people.owner import NUM_SHARDS
from service.errors import HistoryUnavailable
from service.redis.calls import RedisCalls
from service.tasks import end_task

LOGGER = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0
# From here on the log of the service says so, too.
_NEARLY_FULL = 0.8


@dataclass(frozen=True, slots=True)
class LogFill:
    """How full the log is.

    Attributes:
        num_entries: In all shards, those that were exported but not trimmed included.
        fullest: Share of its limit that the fullest shard has reached, in 0..1; there events are refused first.
        oldest_seconds: Age of the oldest entry; 0 if there is none.
    """

    num_entries: int
    fullest: float
    oldest_seconds: float


class LogObserver(Protocol):
    """Is told how full the log is, for the metrics."""

    def event_log_read(self, *, num_entries: int, fullest: float, oldest_seconds: float) -> None:
        """The log was looked at."""
        ...


class EventLogWatch:
    """Looks at the event log now and then.

    Args:
        calls: To Redis.
        observer: Is told.
        max_per_shard: Entries at which a shard refuses events; 0 = nothing is logged.
    """

    def __init__(self, calls: RedisCalls, observer: LogObserver, *, max_per_shard: int) -> None:
        self._calls = calls
        self._observer = observer
        self._max_per_shard = max_per_shard
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._run(), name="event-log-watch")

    async def aclose(self) -> None:
        """Ends."""
        await end_task(self._task)

    async def look(self) -> LogFill:
        """How full the log is now.

        Raises:
            HistoryUnavailable: Redis did not answer.
        """
        keys = [stream_key(shard) for shard in range(NUM_SHARDS)]
        async with self._calls.calling("look at the event log"):
            lengths = await asyncio.gather(*(self._calls.command("XLEN", key) for key in keys))
            first = await asyncio.gather(*(self._calls.command("XRANGE", key, "-", "+", "COUNT", 1) for key in keys))
        oldest = [int(rows[0][0].partition(b"-")[0]) / 1_000 for rows in first if rows]
        return LogFill(
            num_entries=sum(lengths),
            fullest=min(max(lengths) / self._max_per_shard, 1.0) if self._max_per_shard else 0.0,
            oldest_seconds=max(time.time() - min(oldest), 0.0) if oldest else 0.0,
        )

    async def _run(self) -> None:
        was_full = False
        while True:
            try:
                fill = await self.look()
            except HistoryUnavailable:  # logged where it happened
                pass
            else:
                self._observer.event_log_read(**asdict(fill))
                is_full = fill.fullest >= _NEARLY_FULL
                if is_full and not was_full:
                    LOGGER.warning(
                        "the event log is %.0f %% full: export it (offline.export_events --trim), or /events refuses",
                        100 * fill.fullest,
                    )
                was_full = is_full
            await asyncio.sleep(_LOOK_SECONDS)
