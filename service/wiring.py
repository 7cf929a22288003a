"""The parts of a running service, and their order of starting and ending."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from model_store.artifacts.store import ModelStore
from model_store.errors import InvalidInput
from model_store.people.appending import RetentionLimits
from service.engine.batcher import EncodeBatcher
from service.engine.follower import StoreFollower
from service.engine.health import Health
from service.engine.live_bundles import LiveBundles
from service.engine.loading_turn import LoadingTurn
from service.errors import BundleRefused
from service.http.rate_limits import RateLimits
from service.metrics.metrics import Metrics
from service.people.forgetting import Forgetting
from service.people.history_store import HistoryStore
from service.people.people import People
from service.people.remembered import LastKnown
from service.people.user_states import UserStates
from service.recommend.candidates.segments import Segments
from service.recommend.choosing import Chooser
from service.recommend.experiment import Experiment
from service.recommend.paging import Pages
from service.recommend.recommender import Recommender
from service.recommend.scenarios import Scenarios, SeenDefaults
from service.recording import Recording, start_recording
from service.redis.calls import RedisCalls, connect
from service.redis.directory import embedded_directory
from service.redis.embedded import EmbeddedRedis
from service.redis.erasures import Erasures
from service.redis.hidden import RedisHiddenItems
from service.redis.histories import RedisHistoryStore
from service.redis.lists import RedisRankedLists
from service.redis.rates import RedisTurns
from service.redis.recent_events import RecentEvents
from service.settings import EMBEDDED, Settings
from service.supervision import live_bundles, supervise
from service.workers.siblings import Siblings

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

_SEARCH_THREADS = 2
_SECONDS_PER_DAY = 86_400
_SECONDS_PER_HOUR = 3_600
_MIB = 2**20
# Nothing should be waiting for the model when the service ends; what is stuck in it is given up.
_MODEL_END_SECONDS = 5.0
_TURN_TIMEOUT_SECONDS = 0.1


@dataclass(frozen=True)
class RunningService:
    """What routes work with.

    Attributes:
        bundles: What answers now.
        histories: Stored histories.
        batcher: The model's thread.
        user_states: What encoders keep of users.
        last_known: What is remembered of users and sessions for when the model or Redis does not answer.
        recommender: The pipeline.
        experiment: Splits users between kinds of models, if one is on.
        run_blocking: Runs a function in a search thread.
        metrics: For counting.
        request_timeout_seconds: When a request names none.
        health: Whether it can answer.
        follower: Keeps the bundles at what the store names.
        rate_limits: Counts requests.
        recording: What is written down beside the requests.
        scenarios: Those that a request may name.
        seen: What counts as seen when a request does not say.
        hidden: What operators have hidden.
        pages: Cuts them.
        people: Erases, merges, notes.
        recent: What came in lately, for those who look at it.
        erasures: What the other replicas are told of.
        siblings: All workers, where this is one of several.
    """

    bundles: LiveBundles
    histories: HistoryStore
    batcher: EncodeBatcher
    user_states: UserStates
    last_known: LastKnown
    recommender: Recommender
    experiment: Experiment | None
    run_blocking: "SearchThreads"
    metrics: Metrics
    request_timeout_seconds: float
    health: Health
    follower: StoreFollower
    rate_limits: RateLimits
    recording: Recording
    scenarios: Scenarios
    seen: SeenDefaults
    hidden: RedisHiddenItems
    pages: Pages
    people: People
    recent: RecentEvents
    erasures: Erasures
    siblings: Siblings | None


class SearchThreads:
    """Index searches and other blocking work, beside the event loop.

    Args:
        num_threads: How many at once.
        name: Of the threads.
    """

    def __init__(self, num_threads: int = _SEARCH_THREADS, name: str = "search") -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=f"hatstand-{name}")

    async def __call__(self, work: Callable[[], T]) -> T:
        """Runs ``work`` in a thread and returns what it returns."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Waits for what is running."""
        self._threads.shutdown()


@asynccontextmanager
async def run_service(
    settings: Settings,
    metrics: Metrics,
    *,
    siblings: Siblings | None = None,
    loading_turn: LoadingTurn | None = None,
) -> AsyncIterator[RunningService]:
    """Starts everything, yields it, and ends everything in the reverse order.

    A history store that is down and a store without a bundle do not keep the service from starting: it
    answers what it can, and ``/readyz`` tells the rest.

    Raises:
        InvalidInput: The store cannot be one, or the embedded Redis cannot start.
    """
    store = ModelStore(settings.store)
    scenarios = Scenarios() if settings.scenarios is None else Scenarios.load(settings.scenarios)
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    async with AsyncExitStack() as stack:
        redis_url = _redis_url(settings, stack)
        calls = _open_calls(redis_url, settings, stack)
        # Requests that read must not wait behind a batch of events, nor behind what is recorded beside them.
        writes = _open_calls(redis_url, settings, stack)
        histories = RedisHistoryStore(calls, writes=writes, limits=_retention(settings))
        forgetting = Forgetting()
        searches = SearchThreads()
        stack.callback(searches.close)
        # The last steps of the ladder must not wait for a search that takes too long.
        populars = SearchThreads(1, "popular")
        stack.callback(populars.close)
        last_known = LastKnown(
            max_bytes=settings.last_known_mb * _MIB,
            max_age_seconds=settings.last_known_max_age_seconds,
            forgetting=forgetting,
            became_visible=metrics.people.event_became_visible,
        )
        metrics.people.watch_last_known(last_known.kept_bytes)
        batcher = EncodeBatcher(
            max_users=settings.batch_max_users,
            max_wait_seconds=settings.batch_max_wait_ms / 1_000,
            max_waiting=settings.queue_max_users,
            observer=metrics.engine,
            stuck_seconds=settings.model_stuck_seconds,
        )
        batcher.start()
        stack.push_async_callback(batcher.aclose, _MODEL_END_SECONDS)
        bundles = live_bundles(store, settings, metrics, prepare=scenarios.warn, loading_turn=loading_turn)
        user_states = UserStates(bundles, batcher)
        forgetting.register_states(user_states)
        with contextlib.suppress(BundleRefused):  # logged where it happened, and shown by /readyz
            await bundles.reload()
        problems = [problem for served in bundles.live.bundles.values() for problem in scenarios.problems(served)]
        if problems:
            raise InvalidInput(problems[0])
        hidden, lists = RedisHiddenItems(calls), RedisRankedLists(calls, ttl_seconds=settings.pages_ttl_seconds)
        metrics.people.watch_hidden(lambda: len(hidden.last_known.item_ids))
        recording = start_recording(
            stack,
            settings,
            metrics=metrics,
            # not the calls that requests wait for
            calls=_open_calls(redis_url, settings, stack),
            max_logged_per_shard=histories.max_logged_per_shard,
        )
        supervision = await supervise(
            stack,
            settings,
            metrics=metrics,
            bundles=bundles,
            batcher=batcher,
            user_states=user_states,
            histories=histories,
        )
        erasures = Erasures(calls, forgetting)
        await erasures.start()
        stack.push_async_callback(erasures.aclose)
        if supervision.health.history_problem:
            LOGGER.warning("starting without the history store: recommendations fall back, events are refused")
        service = RunningService(
            bundles=bundles,
            histories=histories,
            batcher=batcher,
            user_states=user_states,
            last_known=last_known,
            recommender=Recommender(
                chooser=Chooser(bundles, experiment=settings.experiment, preferred_mode=settings.hatllm_mode),
                histories=histories,
                models=batcher,
                run_blocking=searches,
                run_popular=populars,
                last_known=last_known,
                segments=Segments(settings.segment_attribute or None),
                hidden=hidden,
                falls_back=settings.fallback == "on",
                decisions=recording.sink,
                inline_values=settings.inline_search_values,
            ),
            experiment=settings.experiment,
            run_blocking=searches,
            metrics=metrics,
            request_timeout_seconds=settings.request_timeout_ms / 1_000,
            health=supervision.health,
            follower=supervision.follower,
            rate_limits=RateLimits(_open_turns(redis_url, settings, stack)),
            scenarios=scenarios,
            seen=SeenDefaults(settings.seen_types, settings.seen_max_age_seconds or None),
            hidden=hidden,
            recording=recording,
            people=People(histories=histories, last_known=last_known, forgetting=forgetting, news=erasures),
            recent=RecentEvents(calls, can_scan=not settings.redis_cluster),
            erasures=erasures,
            siblings=siblings,
            pages=Pages(lists=lists, bundles=bundles, hidden=hidden, histories=histories, run_blocking=searches),
        )
        yield service


def _redis_url(settings: Settings, stack: AsyncExitStack) -> str:
    """Where Redis is; the embedded one is started."""
    if settings.redis_url != EMBEDDED:
        return settings.redis_url
    embedded = EmbeddedRedis(embedded_directory(settings.store, settings.redis_directory))
    embedded.start()
    stack.callback(embedded.stop)
    return embedded.url


def _open_turns(url: str, settings: Settings, stack: AsyncExitStack) -> RedisTurns:
    # Every request waits for the count, so it must not take as long as a history may.
    timeout_seconds = min(settings.redis_timeout_seconds, _TURN_TIMEOUT_SECONDS)
    client = connect(url, cluster=settings.redis_cluster, timeout_seconds=timeout_seconds)
    turns = RedisTurns(RedisCalls(client, timeout_seconds=timeout_seconds))
    stack.push_async_callback(turns.aclose)
    return turns


def _open_calls(url: str, settings: Settings, stack: AsyncExitStack) -> RedisCalls:
    client = connect(url, cluster=settings.redis_cluster, timeout_seconds=settings.redis_timeout_seconds)
    calls = RedisCalls(client, timeout_seconds=settings.redis_timeout_seconds)
    stack.push_async_callback(calls.aclose)
    return calls


def _retention(settings: Settings) -> RetentionLimits:
    return RetentionLimits(
        max_events=settings.history_max_events,
        max_remembered=settings.history_max_event_ids,
        ttl_seconds=settings.history_ttl_days * _SECONDS_PER_DAY,
        session_ttl_seconds=settings.session_ttl_hours * _SECONDS_PER_HOUR,
        max_logged=settings.event_log_max_events,
    )
