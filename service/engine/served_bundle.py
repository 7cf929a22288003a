"""A bundle that is open, warm and ready to answer; a request keeps the one it began with to its end."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from cachetools import LRUCache

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
        self._arrays: LRUCache[Hashable, np.ndarray] = LRUCache(max_bytes, getsizeof=lambda array: array.nbytes)
        self._lock = Lock()

    @property
    def num_bytes(self) -> int:
        """What is kept takes."""
        return int(self._arrays.currsize)

    def get(self, key: Hashable, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this key, read-only; two threads may compute the same one, which costs time and nothing else."""
        with self._lock:
            known = self._arrays.get(key)
        if known is not None:
            return known
        array = compute()
        array.flags.writeable = False
        if array.nbytes <= self._arrays.maxsize:
            with self._lock:
                self._arrays[key] = array
        return array


@dataclass(frozen=True)
class ServedBundle:
    """One bundle with the encoder of its model.

    Attributes:
        bundle: Verified.
        encoder: Of the bundle's model. Its methods run on the model's thread only.
        generator: Of the same model if it was trained to generate; on the same thread.
        modes: What the model was trained for and can do; the first one answers where nobody asks for another.
        text_fields: What its model reads of an item, in order.
        masks: What is computed once of its catalogue, such as filter bitmaps.
    """

    bundle: Bundle
    encoder: UserEncoder
    generator: Generator | None = None
    modes: tuple[Mode, ...] = ("retrieve",)
    text_fields: tuple[str, ...] = ()
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
