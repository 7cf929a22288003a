"""The parts of a running service, and their order of starting and ending."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from model_store.store import ModelStore
from service.engine.batcher import EncodeBatcher
from service.engine.live_bundle import LiveBundles
from service.engine.user_states import UserStates
from service.errors import BundleRefused, HistoryUnavailable
from service.experiment import Experiment
from service.metrics import Metrics
from service.pipeline.choosing import Chooser
from service.pipeline.recommender import Recommender
from service.sessions.embedded import EmbeddedRedis
from service.sessions.history_store import ErasedStore, HistoryStore
from service.sessions.redis_sessions import RedisHistoryStore, RetentionLimits, connect
from service.settings import EMBEDDED, Settings

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

_SEARCH_THREADS = 2
_SECONDS_PER_DAY = 86_400
_MIB = 2**20


@dataclass(frozen=True)
class RunningService:
    """What routes work with.

    Attributes:
        bundles: What answers now.
        histories: Stored histories.
        batcher: The model's thread.
        user_states: What encoders keep of users.
        recommender: The pipeline.
        experiment: Splits users between kinds of models, if one is on.
        run_blocking: Runs a function in a search thread.
        metrics: For counting.
        request_timeout_seconds: When a request names none.
    """

    bundles: LiveBundles
    histories: HistoryStore
    batcher: EncodeBatcher
    user_states: UserStates
    recommender: Recommender
    experiment: Experiment | None
    run_blocking: "SearchThreads"
    metrics: Metrics
    request_timeout_seconds: float

    async def reload(self, change: Callable[[], Awaitable[list[str]]] | None = None) -> list[str]:
        """Loads the live bundles and counts it; ``change`` is ``bundles.reload`` by default.

        Raises:
            BundleRefused: The old ones go on.
        """
        try:
            changed = await (change or self.bundles.reload)()
        except BundleRefused:
            self.metrics.bundle_refused()
            raise
        manifests = {kind: served.bundle.manifest for kind, served in self.bundles.live.bundles.items()}
        self.metrics.bundles_loaded(
            {
                kind: (manifest.bundle_id, manifest.model_id, manifest.num_items, manifest.index_recall)
                for kind, manifest in manifests.items()
            }
        )
        return changed

    async def erase(self, user_id: str) -> Sequence[ErasedStore]:
        """Deletes everything kept of a user, and says what that was.

        Raises:
            HistoryUnavailable: The history store did not answer. Asking again is safe.
        """
        erased = await self.histories.erase(user_id)
        return [*erased, ErasedStore("model_state", await self.user_states.forget(user_id))]

    async def history_store_problem(self) -> str | None:
        """Why the history store does not answer, or None."""
        try:
            await self.histories.ping()
        except HistoryUnavailable as error:
            self.metrics.history_store_answered(False)
            return error.detail
        self.metrics.history_store_answered(True)
        return None


class SearchThreads:
    """Index searches and other blocking work, beside the event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_SEARCH_THREADS, thread_name_prefix="hatstand-search")

    async def __call__(self, work: Callable[[], T]) -> T:
        """Runs ``work`` in a thread and returns what it returns."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Waits for what is running."""
        self._threads.shutdown()


@asynccontextmanager
async def run_service(settings: Settings, metrics: Metrics) -> AsyncIterator[RunningService]:
    """Starts everything, yields it, and ends everything in the reverse order.

    A history store that is down and a store without a bundle do not keep the service from starting: it
    answers what it can, and ``/readyz`` tells the rest.

    Raises:
        InvalidInput: The store cannot be one, or the embedded Redis cannot start.
    """
    store = ModelStore(settings.store)
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    async with AsyncExitStack() as stack:
        histories = _open_histories(settings, stack)
        stack.push_async_callback(histories.aclose)
        searches = SearchThreads()
        stack.callback(searches.close)
        batcher = EncodeBatcher(
            max_users=settings.batch_max_users,
            max_wait_seconds=settings.batch_max_wait_ms / 1_000,
            max_waiting=settings.queue_max_users,
            observer=metrics,
        )
        batcher.start()
        stack.push_async_callback(batcher.aclose)
        metrics.watch_queue(lambda: batcher.num_waiting)
        bundles = LiveBundles(store, device=settings.device, state_bytes=settings.state_cache_mb * _MIB)
        user_states = UserStates(bundles, batcher)
        metrics.watch_states(user_states.kept_bytes)
        service = RunningService(
            bundles=bundles,
            histories=histories,
            batcher=batcher,
            user_states=user_states,
            recommender=Recommender(
                chooser=Chooser(bundles, experiment=settings.experiment, preferred_mode=settings.hatllm_mode),
                histories=histories,
                models=batcher,
                run_blocking=searches,
                num_erasures=lambda: user_states.num_erasures,
            ),
            experiment=settings.experiment,
            run_blocking=searches,
            metrics=metrics,
            request_timeout_seconds=settings.request_timeout_ms / 1_000,
        )
        with contextlib.suppress(BundleRefused):  # logged where it happened, and shown by /readyz
            await service.reload()
        if await service.history_store_problem():
            LOGGER.warning("starting without the history store: recommendations fall back, events are refused")
        yield service


def _open_histories(settings: Settings, stack: AsyncExitStack) -> RedisHistoryStore:
    url = settings.redis_url
    if url == EMBEDDED:
        embedded = EmbeddedRedis(settings.redis_directory)
        embedded.start()
        stack.callback(embedded.stop)
        url = embedded.url
    client = connect(url, cluster=settings.redis_cluster, timeout_seconds=settings.redis_timeout_seconds)
    limits = RetentionLimits(
        max_events=settings.history_max_events,
        max_remembered=settings.history_max_event_ids,
        ttl_seconds=settings.history_ttl_days * _SECONDS_PER_DAY,
    )
    return RedisHistoryStore(client, limits=limits, timeout_seconds=settings.redis_timeout_seconds)
