"""What the pipeline asks of the rest of the service."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import numpy as np

from model_store.user_encoder import History, UserEncoder
from service.engine.served_bundle import ServedBundle
from service.sessions.history_store import StoredHistory

T = TypeVar("T")


class EncodedUser(Protocol):
    """What the encoder queue answers."""

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


class EncoderQueue(Protocol):
    """Runs forward passes beside the event loop."""

    async def encode(self, encoder: UserEncoder, history: History) -> EncodedUser:
        """Encodes one history."""
        ...


class HistoryReader(Protocol):
    """Where stored histories are read."""

    async def read(self, user_id: str, *, event_token: str | None = None) -> StoredHistory:
        """Reads one user's history, oldest first."""
        ...


class BundleSource(Protocol):
    """Which bundle answers now."""

    def get(self, kind: str | None = None) -> ServedBundle:
        """For a kind of model, or the default one."""
        ...


class BlockingRunner(Protocol):
    """Runs blocking work in a thread beside the event loop."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Returns what ``work`` returns."""
        ...
