"""A bundle that is open, warm and ready to answer; a request keeps the one it began with to its end."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from model_store.artifacts.bundle import Bundle
from model_store.catalogue.catalogue import Catalogue
from model_store.encoding import Generator, Mode, UserEncoder

# Of all arrays that are computed once per bundle: 512 bitmaps of a million items.
_MAX_CACHED_BYTES = 64 * 2**20


class MaskCache:
    """Arrays that are computed once per bundle, such as filter bitmaps; safe to use from several threads.

    Args:
        max_bytes: Of all together; beyond it those that were not used for longest are dropped.
    """

    def __init__(self, max_bytes: int = _MAX_CACHED_BYTES) -> None:
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._lock = Lock()

    @property
    def num_bytes(self) -> int:
        """What is kept takes."""
        return self._num_bytes

    def get(self, key: Hashable, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this key, read-only; two threads may compute the same one, which costs time and nothing else."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = compute()
        array.flags.writeable = False
        if array.nbytes > self._max_bytes:
            return array
        with self._lock:
            before = self._arrays.pop(key, None)
            self._num_bytes += array.nbytes - (0 if before is None else before.nbytes)
            self._arrays[key] = array
            while self._num_bytes > self._max_bytes and self._arrays:
                _, dropped = self._arrays.popitem(last=False)
                self._num_bytes -= dropped.nbytes
        return array


@dataclass(frozen=True)
class ServedBundle:
    """One bundle with the encoder of its model.

    Attributes:
        bundle: Verified.
        encoder: Of the bundle's model. Its methods run on the model's thread only.
        generator: Of the same model if it was trained to generate; on the same thread.
        modes: What the model was trained for and can do; the first one answers where nobody asks for another.
        masks: What is computed once of its catalogue, such as filter bitmaps.
    """

    bundle: Bundle
    encoder: UserEncoder
    generator: Generator | None = None
    modes: tuple[Mode, ...] = ("retrieve",)
    masks: MaskCache = field(default_factory=MaskCache)

    @property
    def catalogue(self) -> Catalogue:
        """The items."""
        return self.bundle.catalogue

    @property
    def num_values(self) -> int:
        """Numbers that an exact search multiplies: items times D."""
        return len(self.catalogue) * self.encoder.embedding_dim

    @property
    def bundle_id(self) -> str:
        """Which bundle it is."""
        return self.bundle.manifest.bundle_id

    @property
    def model_id(self) -> str:
        """Whose embeddings it has."""
        return self.bundle.manifest.model_id

    @property
    def kind(self) -> str:
        """The kind of its model."""
        return self.bundle.manifest.kind
