"""The bundles that answer now: loaded beside the event loop, warmed, and swapped in one step.

A bundle that is refused (altered file, other weights, newer schema) changes nothing: the service goes on
with what it has. Requests in flight keep the bundle they began with, so nothing is lost and no answer mixes
two versions.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from model_store import hatllm_files
from model_store.bundle import Bundle, open_bundle
from model_store.errors import ArtifactIncompatible, ArtifactNotFound, HatstandError
from model_store.generator import make_generator
from model_store.hatllm_config import KIND as HATLLM
from model_store.hatllm_config import MODES, Mode
from model_store.store import ModelStore
from model_store.user_encoder import History, make_user_encoder
from service.engine.served_bundle import ServedBundle
from service.errors import BundleRefused, InvalidRequest, NotFound, NotReady

LOGGER = logging.getLogger(__name__)

_WARM_ITEMS = 10


@dataclass(frozen=True)
class LiveSet:
    """What is loaded: one bundle per kind of model.

    Attributes:
        bundles: Kind to bundle.
        default: The kind that answers when a request names none.
    """

    bundles: Mapping[str, ServedBundle] = field(default_factory=dict)
    default: str | None = None


class LiveBundles:
    """Follows the live pointer of a store.

    Args:
        store: Whose pointer.
        device: Where the models run.
        state_bytes: What each encoder may keep of users between requests.
    """

    def __init__(self, store: ModelStore, *, device: str, state_bytes: int) -> None:
        self._store = store
        self._device = device
        self._state_bytes = state_bytes
        self._live = LiveSet()
        self._one_at_a_time = asyncio.Lock()
        self._problem: str | None = None

    @property
    def live(self) -> LiveSet:
        """What is loaded now."""
        return self._live

    @property
    def problem(self) -> str | None:
        """Why the last load was refused, if it was."""
        return self._problem

    def get(self, kind: str | None = None) -> ServedBundle:
        """The bundle that answers for a kind of model, or for the default one.

        Raises:
            NotReady: Nothing is loaded.
            InvalidRequest: There is no such kind.
        """
        live = self._live
        name = kind or live.default
        if name is None or not live.bundles:
            raise NotReady(self._problem or "no bundle is live in the store: run offline.reindex")
        if name not in live.bundles:
            raise InvalidRequest(f"no model of kind {name!r}; live are {sorted(live.bundles)}", code="unknown_model")
        return live.bundles[name]

    def is_live(self, kind: str) -> bool:
        """Whether a bundle of this kind is loaded."""
        return kind in self._live.bundles

    async def reload(self) -> list[str]:
        """Loads what the store's pointer names and this service does not have yet.

        Returns:
            The kinds whose bundle changed.

        Raises:
            BundleRefused: A bundle cannot be served; everything stays as it was.
        """
        async with self._one_at_a_time:
            return await self._reload()

    async def rollback(self, kind: str | None) -> list[str]:
        """Makes the bundle that was live before live again, and loads it.

        Raises:
            NotFound: There is none.
            BundleRefused: It cannot be served.
        """
        async with self._one_at_a_time:
            try:
                await asyncio.to_thread(self._store.rollback, kind)
            except ArtifactNotFound as error:
                raise NotFound(str(error), code="no_earlier_bundle") from error
            except HatstandError as error:
                raise BundleRefused(str(error)) from error
            return await self._reload()

    async def _reload(self) -> list[str]:
        before = self._live
        try:
            after = await asyncio.to_thread(self._load, before)
        except (HatstandError, OSError) as error:
            self._problem = str(error)
            LOGGER.error("a bundle was refused, going on with %s: %s", _ids(before) or "none", error)
            raise BundleRefused(str(error)) from error
        self._live, self._problem = after, None
        changed = [kind for kind, served in after.bundles.items() if before.bundles.get(kind) is not served]
        changed += [kind for kind in before.bundles if kind not in after.bundles]
        if changed:
            LOGGER.info("live bundles are %s", _ids(after))
        return changed

    def _load(self, before: LiveSet) -> LiveSet:
        pointer = self._store.live()
        bundles = {}
        for kind, bundle_id in pointer.bundles.items():
            loaded = before.bundles.get(kind)
            is_same = loaded is not None and loaded.bundle_id == bundle_id
            bundles[kind] = loaded if loaded is not None and is_same else self._open(bundle_id)
        return LiveSet(bundles, pointer.default)

    def _open(self, bundle_id: str) -> ServedBundle:
        bundle = open_bundle(self._store, bundle_id)
        encoder = make_user_encoder(bundle, device=self._device, state_bytes=self._state_bytes)
        generator = make_generator(bundle, encoder)
        served = ServedBundle(bundle, encoder, generator, _modes(bundle, can_generate=generator is not None))
        _warm(served)
        return served


def _modes(bundle: Bundle, *, can_generate: bool) -> tuple[Mode, ...]:
    """What the bundle's model was trained for and can do, retrieving first.

    Raises:
        ArtifactIncompatible: Nothing.
    """
    if bundle.manifest.kind != HATLLM:
        return ("retrieve",)
    trained = hatllm_files.read_config(bundle.model_directory).modes
    modes = tuple(mode for mode in MODES if mode in trained and (mode == "retrieve" or can_generate))
    if not modes:
        raise ArtifactIncompatible(
            f"{bundle.model_directory}: it was trained to generate only, and cannot be served so"
        )
    return modes


def _warm(served: ServedBundle) -> None:
    """Runs every step once, so that the first request does not pay for lazy work."""
    popular = served.catalogue.popular()
    length = min(len(popular), served.encoder.max_history_length)
    history = History(popular[:length].astype(np.int64), np.zeros(length, dtype=np.int64))
    k = min(_WARM_ITEMS, len(popular))
    served.bundle.index.search(served.encoder.encode([history]), k)
    served.encoder.explain(history)
    if served.generator is not None:
        served.generator.recommend(history, k, None)


def _ids(live: LiveSet) -> dict[str, str]:
    return {kind: served.bundle_id for kind, served in live.bundles.items()}
