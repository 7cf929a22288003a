"""Opening a bundle beside the one that answers: verified, warm, and with no stutter in the event loop.

A load runs in a thread of its own that ends with the process. Python code in it would hold the interpreter's lock
for 5 ms at a time, and every answer would wait for several such turns; so turns are short while something loads.
"""

import asyncio
import contextlib
import ctypes
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from model_store.artifacts.bundle import Bundle, open_bundle
from model_store.artifacts.manifest import read_bundle_manifest, read_model_manifest
from model_store.artifacts.store import ModelStore
from model_store.encoding import MODES, ExplainsByAttention, Mode
from model_store.errors import ArtifactIncompatible
from model_store.kinds import make_generator, make_user_encoder, read_text_fields, trained_modes
from model_store.people.histories import History
from service.engine.loading_turn import LoadingTurn
from service.engine.memory import (
    AvailableBytes,
    InsufficientMemory,
    MemoryNeed,
    available_bytes,
    estimate_need,
    memory_problem,
)
from service.engine.served_bundle import ServedBundle

T = TypeVar("T")

_WARM_ITEMS = 10
# Batches of these sizes are run before the bundle answers; kernels are chosen, and memory is laid out, by shape.
_WARM_BATCHES = (1, 8)
_FREED_AT_ONCE = 1_000


@dataclass(frozen=True)
class Loader:
    """How bundles are opened.

    Attributes:
        store: Where they are.
        device: Where the models run.
        state_bytes: What each encoder may keep of users between requests.
        reserve_bytes: Memory that must stay free beside a new bundle; negative: nobody looks.
        available: How much memory there is.
        prepare: Is given each bundle once it is warm, to compute what requests will need of it, and to warn.
        turn: Taken where not all processes have room to load at once.
    """

    store: ModelStore
    device: str
    state_bytes: int
    reserve_bytes: int = 0
    available: AvailableBytes = available_bytes
    prepare: Callable[[ServedBundle], None] | None = None
    turn: LoadingTurn | None = None

    def open(self, bundle_id: str) -> ServedBundle:
        """Checks the memory, verifies, loads and warms a bundle; takes its time, so not in the event loop.

        Raises:
            HatstandError: The bundle cannot be served.
            InsufficientMemory: There is no room for it beside what is there.
        """
        manifest = read_bundle_manifest(self.store.bundle_directory(bundle_id, verify=False))
        model = read_model_manifest(self.store.model_directory(manifest.model_id, verify=False))
        need = estimate_need(manifest, model, device=self.device)
        if self.turn is None or self._problem(need, times=self.turn.num_processes) is None:
            return self._open(bundle_id, need)
        with self.turn.taken():
            return self._open(bundle_id, need)

    def _open(self, bundle_id: str, need: MemoryNeed) -> ServedBundle:
        problem = self._problem(need)
        if problem:
            raise InsufficientMemory(f"bundle {bundle_id} is not loaded: {problem}")
        bundle = open_bundle(self.store, bundle_id)
        encoder = make_user_encoder(bundle, device=self.device, state_bytes=self.state_bytes)
        generator = make_generator(bundle, encoder)
        served = ServedBundle(
            bundle,
            encoder,
            generator,
            modes=_modes(bundle, can_generate=generator is not None),
            text_fields=read_text_fields(bundle.model_directory),
        )
        _warm(served)
        if self.prepare is not None:
            self.prepare(served)
        return served

    def _problem(self, need: MemoryNeed, *, times: int = 1) -> str | None:
        """Why there is no room for so many such bundles, or None."""
        return memory_problem(
            need.times(times), device=self.device, reserve_bytes=self.reserve_bytes, available=self.available
        )


async def in_own_thread(work: Callable[[], T], *, name: str) -> T:
    """Runs blocking work in a daemon thread, so that it keeps neither the event loop nor the end of the process."""
    answer: Future[T] = Future()

    def main() -> None:
        try:
            value = work()
        except BaseException as error:
            # A thread boundary: whoever waits must be told, whatever it was.
            answer.set_exception(error)
        else:
            answer.set_result(value)

    threading.Thread(target=main, name=name, daemon=True).start()
    return await asyncio.shield(asyncio.wrap_future(answer))


def free_in_slices(owner: object) -> None:
    """Once ``owner`` is gone, frees the lists and dictionaries that it alone held, a little at a time.

    A million strings that are let go of at once keep everybody waiting for a tenth of a second.

    Args:
        owner: Such as a catalogue; nobody else may hold its lists and dictionaries.
    """
    containers = [value for value in vars(owner).values() if isinstance(value, list | dict)]
    weakref.finalize(owner, _free_in_thread, containers).atexit = False


def _free_in_thread(containers: list[Any]) -> None:
    threading.Thread(target=_free, args=(containers,), name="hatstand-free", daemon=True).start()


def _free(containers: list[Any]) -> None:
    while containers:
        container = containers.pop()
        while container:
            if isinstance(container, list):
                del container[-_FREED_AT_ONCE:]
            else:
                for _ in range(min(_FREED_AT_ONCE, len(container))):
                    container.popitem()
            time.sleep(0)


def freeze_what_lives(*, generation: int = 2) -> None:
    """Takes what is in memory now out of the garbage collector's sight, after a last look.

    A full collection looks at half a million objects of the libraries, and everybody waits for 0.4 s. None of them is
    garbage; without them a collection takes a millisecond. A bundle that is frozen is still freed with its last
    reference, as no cycle leads to it.

    Args:
        generation: The oldest one that is looked at; everybody waits for the look.
    """
    gc.collect(generation)
    gc.freeze()


def give_back_memory() -> None:
    """Returns what was freed to the system; without this, glibc keeps much of it for later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def prober(served: ServedBundle) -> Callable[[], None]:
    """A real forward pass on a short history of the bundle; it raises if the answer is not a number."""
    popular = served.catalogue.popular()[:1].astype(np.int64)
    history = History(popular, np.full(len(popular), int(time.time()), dtype=np.int64))
    encoder = served.encoder

    def probe() -> None:
        if not np.isfinite(encoder.encode([history])).all():
            raise ArithmeticError("the model's answer is not a number")

    return probe


def _modes(bundle: Bundle, *, can_generate: bool) -> tuple[Mode, ...]:
    """What the bundle's model was trained for and can do, retrieving first.

    Raises:
        ArtifactIncompatible: There is no such way.
    """
    trained = trained_modes(bundle.model_directory)
    modes = tuple(mode for mode in MODES if mode in trained and (mode == "retrieve" or can_generate))
    if not modes:
        raise ArtifactIncompatible(
            f"{bundle.model_directory}: it was trained to generate only, and cannot be served so"
        )
    return modes


def _warm(served: ServedBundle) -> None:
    """Runs every step, so that the first requests do not pay for lazy work."""
    popular = served.catalogue.popular()
    length = min(len(popular), served.encoder.max_history_length)
    history = History(popular[:length].astype(np.int64), np.zeros(length, dtype=np.int64))
    k = min(_WARM_ITEMS, len(popular))
    for num_users in _WARM_BATCHES:
        embeddings = served.encoder.encode([history] * num_users)
        if not np.isfinite(embeddings).all():
            raise ArtifactIncompatible(f"{served.bundle.model_directory}: the model's answer is not a number")
        served.bundle.index.search(embeddings, k)
    if isinstance(served.encoder, ExplainsByAttention):
        served.encoder.explain(history)
    if served.generator is not None:
        served.generator.recommend(history, k, None)
