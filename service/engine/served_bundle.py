"""A bundle that is open, warm and ready to answer; a request keeps the one it began with to its end."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import numpy as np

from model_store.bundle import Bundle
from model_store.catalogue import Catalogue
from model_store.hatllm_config import Mode
from model_store.user_encoder import History, UserEncoder

_MAX_MASKS = 64


class MaskCache:
    """The newest few filter masks of one bundle; safe to use from several threads."""

    def __init__(self) -> None:
        self._masks: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The mask of this key; two threads may compute the same one, which costs time and nothing else."""
        with self._lock:
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        mask = compute()
        mask.flags.writeable = False
        with self._lock:
            self._masks[key] = mask
            while len(self._masks) > _MAX_MASKS:
                self._masks.popitem(last=False)
        return mask


class Generator(Protocol):
    """Writes titles of the catalogue after a history."""

    def recommend(self, history: History, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(C,) int64 item indices, best first, C <= k, all ``allowed`` ((N,) bool); (C,) float32 log-probabilities."""
        ...


@dataclass(frozen=True)
class ServedBundle:
    """One bundle with the encoder of its model.

    Attributes:
        bundle: Verified.
        encoder: Of the bundle's model. Its methods run on the model's thread only.
        generator: Of the same model if it was trained to generate; on the same thread.
        modes: What the model was trained for and can do; the first one answers where nobody asks for another.
        masks: Filter masks, (N,) bool each.
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
