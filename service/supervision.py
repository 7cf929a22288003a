"""What looks after the running parts: the watchdog, the follower of the store, health, and what is told of them."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from model_store.artifacts.store import ModelStore
from service.engine.batcher import EncodeBatcher
from service.engine.follower import StoreFollower
from service.engine.health import Health
from service.engine.live_bundles import LiveBundles
from service.engine.loading import Loader, prober
from service.engine.loading_turn import LoadingTurn
from service.engine.memory import available_bytes
from service.engine.served_bundle import ServedBundle
from service.engine.watchdog import Probe, Watchdog
from service.metrics.engine import ServiceFigures
from service.metrics.metrics import Metrics
from service.people.history_store import HistoryStore
from service.people.user_states import UserStates
from service.settings import Settings

_MIB = 2**20


@dataclass(frozen=True)
class Supervision:
    """What looks after the service.

    Attributes:
        health: Whether it can answer.
        watchdog: Whether the model can.
        follower: Keeps the live bundles at what the store names.
    """

    health: Health
    watchdog: Watchdog
    follower: StoreFollower


def live_bundles(
    store: ModelStore,
    settings: Settings,
    metrics: Metrics,
    *,
    prepare: Callable[[ServedBundle], None] | None = None,
    loading_turn: LoadingTurn | None = None,
) -> LiveBundles:
    """The live bundles as the settings say; nothing is loaded yet.

    Args:
        store: Where they are.
        settings: Checked values.
        metrics: Is told of swaps.
        prepare: Is given each bundle before it answers, in the thread that loads it.
        loading_turn: Among several workers.
    """
    reserve = settings.memory_reserve_mb
    loader = Loader(
        store,
        device=settings.device,
        state_bytes=settings.state_cache_mb * _MIB,
        reserve_bytes=reserve * _MIB if reserve >= 0 else -1,
        prepare=prepare,
        turn=loading_turn,
    )
    return LiveBundles(store, loader=loader, observer=metrics.engine)


async def supervise(
    stack: AsyncExitStack,
    settings: Settings,
    *,
    metrics: Metrics,
    bundles: LiveBundles,
    batcher: EncodeBatcher,
    user_states: UserStates,
    histories: HistoryStore,
) -> Supervision:
    """Starts to look after parts that are running; ends with the stack.

    Args:
        stack: Of what has to be ended.
        settings: Checked values.
        metrics: Where figures go.
        bundles: What is live.
        batcher: The model's queue.
        user_states: What encoders keep of users.
        histories: Stored histories.
    """
    watchdog = Watchdog(
        batcher.thread,
        make_probe=lambda: _probe(bundles),
        last_encoded=lambda: batcher.last_encoded,
        stuck_seconds=settings.model_stuck_seconds,
    )
    watchdog.start()
    stack.push_async_callback(watchdog.aclose)
    health = Health(
        bundles=bundles,
        thread=batcher.thread,
        watchdog=watchdog,
        histories=histories,
        observer=metrics.engine,
        is_history_required=settings.redis_required,
        hung_seconds=settings.model_hung_seconds,
    )
    await health.start()
    stack.push_async_callback(health.aclose)
    follower = StoreFollower(bundles, every_seconds=settings.store_poll_seconds)
    follower.start()
    stack.push_async_callback(follower.aclose)

    def figures() -> ServiceFigures:
        age = time.monotonic() - watchdog.last_success
        places = {"cpu", settings.device} if settings.device != "cpu" else {"cpu"}
        available = {place: available_bytes(place) for place in places}
        return ServiceFigures(
            is_ready=health.report().status != "not_ready",
            num_draining=len(bundles.draining),
            refused=frozenset(bundles.refused),
            last_look=follower.last_look,
            last_success=0.0 if age == float("inf") else time.time() - age,
            queue_seconds=batcher.waiting_seconds,
            available_bytes={place: free for place, free in available.items() if free is not None},
            state_bytes=user_states.kept_bytes(),
            state_counts=user_states.counts(),
        )

    metrics.engine.watch_queue(lambda: batcher.num_waiting)
    metrics.engine.watch_service(figures)
    return Supervision(health, watchdog, follower)


def _probe(bundles: LiveBundles) -> Probe | None:
    """A forward pass of every live model. Made anew each time, so that it holds no bundle that was replaced."""
    probes = [prober(served) for served in bundles.live.bundles.values()]
    if not probes:
        return None

    def probe() -> None:
        for one in probes:
            one()

    return probe
