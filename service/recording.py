"""What is written down beside the requests: decision records, what they led to, and how full the event log is."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from service.decisions.attribution import AttributionCounter
from service.decisions.record import NoDecisions
from service.decisions.store import DecisionStore
from service.decisions.writer import DecisionWriter
from service.metrics.metrics import Metrics
from service.recommend.protocols import DecisionSink
from service.redis.calls import RedisCalls
from service.redis.decisions import DecisionLimits, RedisDecisionStore
from service.redis.event_log import EventLogWatch
from service.settings import Settings

_MIB = 2**20
_SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True)
class Recording:
    """The parts that write things down.

    Attributes:
        decisions: Has the records of answers; None if none are kept.
        sink: Takes new ones.
        attribution: Counts which answers led to events.
    """

    decisions: DecisionStore | None
    sink: DecisionSink
    attribution: AttributionCounter


def start_recording(
    stack: AsyncExitStack, settings: Settings, *, metrics: Metrics, calls: RedisCalls, max_logged_per_shard: int
) -> Recording:
    """Starts to write things down; ends with the stack.

    Args:
        stack: Of what has to be ended.
        settings: Checked values.
        metrics: Where figures go.
        calls: To Redis; not those that requests wait for.
        max_logged_per_shard: Entries of the event log at which a shard refuses events.
    """
    decisions: RedisDecisionStore | None = None
    sink: DecisionSink = NoDecisions()
    if settings.decision_max_mb:
        limits = DecisionLimits(
            max_bytes=settings.decision_max_mb * _MIB, ttl_seconds=settings.decision_ttl_hours * _SECONDS_PER_HOUR
        )
        decisions = RedisDecisionStore(calls, limits)
        sink = writer = DecisionWriter(decisions, metrics.people)
        writer.start()
        stack.push_async_callback(writer.aclose)
    attribution = AttributionCounter(decisions, metrics.people, types=settings.counted_event_types)
    attribution.start()
    stack.push_async_callback(attribution.aclose)
    watch = EventLogWatch(calls, metrics.people, max_per_shard=max_logged_per_shard)
    watch.start()
    stack.push_async_callback(watch.aclose)
    return Recording(decisions, sink, attribution)
