"""The bundles that answer now: loaded beside the event loop, warmed, and swapped in one step.

A bundle that is refused (altered file, other weights, newer schema, no room) changes nothing: the service goes on
with what it has, remembers the refusal, and tries again only when the store names another bundle, when somebody asks,
or, ever more rarely, by itself. Requests in flight keep the bundle they began with, so nothing is lost and no answer
mixes two versions; it is freed when the last of them has ended.
"""

import asyncio
import logging
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from model_store.artifacts.manifest import BundleManifest
from model_store.artifacts.store import LivePointer, ModelStore
from model_store.errors import ArtifactNotFound, HatstandError
from service.engine.loading import Loader, free_in_slices, freeze_what_lives, in_own_thread
from service.engine.served_bundle import ServedBundle
from service.engine.turns import short_turns
from service.errors import BundleRefused, InvalidRequest, NotFound, NotReady

LOGGER = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 60.0
_LAST_RETRY_SECONDS = 3_600.0


@dataclass(frozen=True)
class LiveSet:
    """What is loaded: one bundle per kind of model.

    Attributes:
        bundles: Kind to bundle.
        default: The kind that answers when a request names none.
    """

    bundles: Mapping[str, ServedBundle] = field(default_factory=dict)
    default: str | None = None

    def num_unknown(self, item_ids: Sequence[str]) -> int:
        """How many of these items no catalogue has."""
        catalogues = [served.catalogue for served in self.bundles.values()]
        return sum(not any(catalogue.index_of(item_id) for catalogue in catalogues) for item_id in item_ids)


@dataclass(frozen=True)
class Refusal:
    """A bundle that the store names and that is not served.

    Attributes:
        bundle_id: Which one.
        reason: Why not.
        at: When it was last tried, in seconds since 1970.
        attempts: How often.
        retry_at: It is not tried before, in ``time.monotonic()`` seconds, unless somebody asks.
    """

    bundle_id: str
    reason: str
    at: float
    attempts: int
    retry_at: float


@dataclass(frozen=True)
class Draining:
    """A bundle that was replaced while requests were using it.

    Attributes:
        bundle_id: Which one.
        since: When, in ``time.monotonic()`` seconds.
    """

    bundle_id: str
    since: float


class SwapObserver(Protocol):
    """Is told what happened, for the metrics."""

    def bundles_are(self, manifests: Mapping[str, BundleManifest]) -> None:
        """These are live now."""
        ...

    def bundle_loaded(self, kind: str, seconds: float) -> None:
        """A bundle was loaded, warmed and swapped in."""
        ...

    def bundle_refused(self, kind: str | None) -> None:
        """A bundle (or, without a kind, the live pointer) was refused."""
        ...


class LiveBundles:
    """Follows the live pointer of a store.

    Args:
        store: Whose pointer.
        device: Where the models run.
        state_bytes: What each encoder may keep of users between requests.
        loader: How bundles are opened, where it is to be another way.
        observer: Is told of swaps.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        device: str = "cpu",
        state_bytes: int = 0,
        loader: Loader | None = None,
        observer: SwapObserver | None = None,
    ) -> None:
        self._store = store
        self._loader = loader or Loader(store, device=device, state_bytes=state_bytes)
        self._observer = observer
        self._live = LiveSet()
        self._one_at_a_time = asyncio.Lock()
        self._refused: dict[str, Refusal] = {}
        self._pointer_problem: str | None = None
        self._draining: dict[int, Draining] = {}
        self._num_swaps = 0

    @property
    def live(self) -> LiveSet:
        """What is loaded now."""
        return self._live

    @property
    def refused(self) -> Mapping[str, Refusal]:
        """What the store names and is not served, by kind."""
        return self._refused

    @property
    def draining(self) -> Sequence[Draining]:
        """Replaced bundles that requests in flight still use."""
        return list(self._draining.values())

    @property
    def pointer_problem(self) -> str | None:
        """Why the store's live pointer could not be read the last time, if so."""
        return self._pointer_problem

    @property
    def store_name(self) -> str:
        """Where the bundles are looked for."""
        return str(self._store.root)

    @property
    def problem(self) -> str | None:
        """Why what the store names is not served, if so."""
        if self._pointer_problem:
            return self._pointer_problem
        return next((refusal.reason for refusal in self._refused.values()), None)

    def get(self, kind: str | None = None) -> ServedBundle:
        """The bundle that answers for a kind of model, or for the default one.

        Raises:
            NotReady: Nothing is loaded.
            InvalidRequest: There is no such kind.
        """
        live = self._live
        name = kind or live.default
        if name is None or not live.bundles:
            raise NotReady(self.problem or "no bundle is live in the store: run offline.reindex")
        if name not in live.bundles:
            raise InvalidRequest(f"no model of kind {name!r}; live are {sorted(live.bundles)}", code="unknown_model")
        return live.bundles[name]

    def is_live(self, kind: str) -> bool:
        """Whether a bundle of this kind is loaded."""
        return kind in self._live.bundles

    async def reload(self) -> list[str]:
        """Loads what the store's pointer names and this service does not have yet, also what it refused before.

        Returns:
            The kinds whose bundle changed.

        Raises:
            BundleRefused: A bundle cannot be served; the one of its kind that was there goes on.
        """
        async with self._one_at_a_time:
            return await self._reload()

    async def follow(self) -> list[str]:
        """As ``reload``, but what was refused before is left alone until its time has come; raises nothing.

        Returns:
            The kinds whose bundle changed.
        """
        async with self._one_at_a_time:
            changed, _ = await self._update(again=False)
            return changed

    async def rollback(self, kind: str | None) -> list[str]:
        """Makes the bundle that was live before live again, and loads it.

        Raises:
            NotFound: There is none.
            BundleRefused: It cannot be served.
        """
        async with self._one_at_a_time:
            try:
                await in_own_thread(lambda: self._store.rollback(kind), name="hatstand-rollback")
            except ArtifactNotFound as error:
                raise NotFound(str(error), code="no_earlier_bundle") from error
            except (HatstandError, OSError) as error:
                raise BundleRefused(str(error)) from error
            return await self._reload()

    async def _reload(self) -> list[str]:
        changed, problems = await self._update(again=True)
        if problems:
            raise BundleRefused("; ".join(problems))
        return changed

    async def _update(self, *, again: bool) -> tuple[list[str], list[str]]:
        """Brings what is loaded to what the store names, kind by kind; (changed kinds, what went wrong)."""
        try:
            pointer = await in_own_thread(self._store.live, name="hatstand-pointer")
        except Exception as error:
            # A boundary: each kind of object store raises errors of its own.
            return [], [self._refuse_pointer(error)]
        self._pointer_problem = None
        self._refused = {
            kind: refusal
            for kind, refusal in self._refused.items()
            if pointer.bundles.get(kind) == refusal.bundle_id and not self._has(kind, refusal.bundle_id)
        }
        changed: list[str] = []
        problems: list[str] = []
        for kind, bundle_id in pointer.bundles.items():
            if self._has(kind, bundle_id) or not (again or self._may_try(kind)):
                continue
            problem = await self._load(kind, bundle_id, pointer)
            (problems if problem else changed).append(problem or kind)
        gone = [kind for kind in self._live.bundles if kind not in pointer.bundles]
        self._switch({kind: one for kind, one in self._live.bundles.items() if kind not in gone}, pointer)
        return [*changed, *gone], problems

    async def _load(self, kind: str, bundle_id: str, pointer: LivePointer) -> str | None:
        """Loads one bundle and switches to it; what went wrong, or None."""
        started = time.monotonic()
        try:
            with short_turns():
                served = await in_own_thread(lambda: self._loader.open(bundle_id), name="hatstand-loader")
        except Exception as error:
            # A boundary: whatever is wrong with a new bundle, the old one goes on.
            return self._refuse(kind, bundle_id, error)
        self._refused.pop(kind, None)
        is_swap = bool(self._live.bundles)
        self._switch({**self._live.bundles, kind: served}, pointer)
        if is_swap:
            freeze_what_lives(generation=1)
        seconds = time.monotonic() - started
        LOGGER.info("bundle %s answers now, loaded and warmed in %.1f s", bundle_id, seconds)
        if self._observer:
            self._observer.bundle_loaded(kind, seconds)
        return None

    def _switch(self, bundles: Mapping[str, ServedBundle], pointer: LivePointer) -> None:
        """One assignment: a request sees all of the old or all of the new."""
        before = self._live
        named = [pointer.default, before.default, *bundles]
        default = next((kind for kind in named if kind in bundles), None)
        self._live = LiveSet(bundles, default)
        replaced = [served for kind, served in before.bundles.items() if bundles.get(kind) is not served]
        for served in replaced:
            self._drain(served)
        if self._observer and (replaced or len(bundles) != len(before.bundles)):
            self._observer.bundles_are({kind: served.bundle.manifest for kind, served in bundles.items()})

    def _drain(self, served: ServedBundle) -> None:
        self._num_swaps += 1
        number, draining = self._num_swaps, Draining(served.bundle_id, time.monotonic())
        self._draining[number] = draining
        # Requests in flight hold it; when the last one ends, so does the bundle, and we hear of it.
        weakref.finalize(served, self._freed, number).atexit = False
        free_in_slices(served.catalogue)

    def _freed(self, number: int) -> None:
        draining = self._draining.pop(number)
        seconds = time.monotonic() - draining.since
        LOGGER.info("bundle %s was freed %.1f s after it was replaced", draining.bundle_id, seconds)

    def _has(self, kind: str, bundle_id: str) -> bool:
        loaded = self._live.bundles.get(kind)
        return loaded is not None and loaded.bundle_id == bundle_id

    def _may_try(self, kind: str) -> bool:
        refusal = self._refused.get(kind)
        return refusal is None or time.monotonic() >= refusal.retry_at

    def _refuse(self, kind: str, bundle_id: str, error: Exception) -> str:
        attempts = self._refused[kind].attempts + 1 if kind in self._refused else 1
        pause = min(_FIRST_RETRY_SECONDS * 2.0 ** (attempts - 1), _LAST_RETRY_SECONDS)
        reason = _reason(error)
        self._refused[kind] = Refusal(bundle_id, reason, time.time(), attempts, time.monotonic() + pause)
        present = self._live.bundles.get(kind)
        LOGGER.error(
            "bundle %s was refused, going on with %s: %s",
            bundle_id,
            present.bundle_id if present else "none",
            reason,
            exc_info=None if isinstance(error, HatstandError | OSError) else error,
        )
        if self._observer:
            self._observer.bundle_refused(kind)
        return f"bundle {bundle_id}: {reason}"

    def _refuse_pointer(self, error: Exception) -> str:
        reason = f"the live pointer of the store cannot be read: {_reason(error)}"
        if reason != self._pointer_problem:
            LOGGER.error("%s", reason)
            if self._observer:
                self._observer.bundle_refused(None)
        self._pointer_problem = reason
        return reason


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, HatstandError) else f"{type(error).__name__}: {error}"
