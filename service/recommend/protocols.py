"""What the pipeline asks of the rest of the service."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import numpy as np

from model_store.encoding import UserEncoder
from model_store.people.histories import History
from service.decisions.record import Decision
from service.engine.served_bundle import ServedBundle
from service.people.hidden_set import HiddenItems

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class EncodedUser(Protocol):
    """What the model queue answers for a history."""

    @property
    def embedding(self) -> np.ndarray:
        """(D,) float32, unit-norm."""
        ...

    @property
    def queue_seconds(self) -> float:
        """Waited before the forward pass."""
        ...

    @property
    def encode_seconds(self) -> float:
        """Took the forward pass."""
        ...


class RanWork(Protocol[T_co]):
    """What the model queue answers for other work."""

    @property
    def value(self) -> T_co:
        """What the work returned."""
        ...

    @property
    def queue_seconds(self) -> float:
        """Waited before it began."""
        ...

    @property
    def run_seconds(self) -> float:
        """Took the work."""
        ...


class ModelQueue(Protocol):
    """Runs all that needs the model, on one thread beside the event loop."""

    async def encode(self, encoder: UserEncoder, history: History, *, deadline: float | None = None) -> EncodedUser:
        """Encodes one history; ``deadline`` (``time.monotonic()`` seconds): refused at once if it cannot be met."""
        ...

    async def run(self, work: Callable[[], T], *, deadline: float | None = None) -> RanWork[T]:
        """Runs ``work``; ``deadline`` as in ``encode``."""
        ...


class HiddenReader(Protocol):
    """What operators have hidden."""

    def current(self, *, within: float) -> Coroutine[Any, Any, HiddenItems]:
        """As of now; where the store does not answer within so many seconds, as last known. Never raises.

        The question leaves with this call, or when the answer is awaited; whoever does not await it closes it.
        """
        ...


class BundleSource(Protocol):
    """Which bundle answers now."""

    def get(self, kind: str | None = None) -> ServedBundle:
        """For a kind of model, or the default one."""
        ...

    def is_live(self, kind: str) -> bool:
        """Whether a bundle of this kind can be had."""
        ...


class BlockingRunner(Protocol):
    """Runs blocking work in a thread beside the event loop."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Returns what ``work`` returns."""
        ...


class DecisionSink(Protocol):
    """Takes records of answers."""

    def record(self, decision: Decision) -> None:
        """Takes one; never waits, and never raises."""
        ...
