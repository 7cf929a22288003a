"""What encodes items and users, whatever the kind of model, and what that reads of a bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch

from model_store.backbone.item_vectors import ItemVectors
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.item_states import ItemTokens
from model_store.catalogue.item_text import TokenBatch
from model_store.people.histories import History

Mode = Literal["retrieve", "generate"]
MODES: tuple[Mode, ...] = ("retrieve", "generate")


@dataclass
class CacheCounts:
    """What happened to the kept states of users since the start.

    Attributes:
        hits: Users whose state was there when it was wanted.
        misses: Users whose state was not.
        evictions: States that were dropped because there was no room.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class ItemModel(Protocol):
    """A model, as far as it embeds items."""

    @property
    def config(self) -> Any:
        """With ``kind``, ``embedding_dim`` and ``text_fields`` at least."""
        ...

    @property
    def item_tokenizer(self) -> Any:
        """Encodes and collates texts; None for a model that reads none."""
        ...

    @property
    def item_vectors(self) -> ItemVectors | None:
        """A learned vector per known item."""
        ...

    @property
    def item_encoder(self) -> "ItemModel":
        """What embeds items: this model, or another one inside it."""
        ...

    @property
    def reads_text(self) -> bool:
        """Whether items have a text part."""
        ...

    def render_item(self, item_fields: Mapping[str, Any], /) -> str:
        """The text of an item, from its fields."""
        ...

    def encode_item_tokens(self, batch: TokenBatch, /) -> torch.Tensor:
        """The text's part of item embeddings, (B, D) raw."""
        ...

    def combine(self, text_part: torch.Tensor | None, rows: torch.Tensor | None, /) -> torch.Tensor:
        """(B, D) the item embedding: the text's part and the vectors of ``rows``, -1 = unknown."""
        ...


class ItemEmbeddings(Protocol):
    """What an HLLM needs of a bundle."""

    @property
    def model_directory(self) -> Path:
        """Of the model that made the embeddings."""
        ...

    def item_embeddings(self, item_indices: np.ndarray) -> np.ndarray:
        """(...) int64 to (..., D) float32 raw, zeros for 0."""
        ...


class ItemTitles(Protocol):
    """What a HatLLM needs of a bundle."""

    @property
    def model_directory(self) -> Path:
        """Of the model."""
        ...

    @property
    def item_tokens(self) -> ItemTokens | None:
        """The items' tokens, as a HatLLM reads them."""
        ...

    @property
    def item_states(self) -> torch.Tensor | None:
        """(M, H) their states after the IN band of a HatLLM."""
        ...


class EncodedItems(ItemEmbeddings, ItemTitles, Protocol):
    """What the encoder of any kind may need of a bundle."""

    @property
    def catalogue(self) -> Catalogue:
        """The items."""
        ...

    @property
    def embeddings(self) -> np.ndarray:
        """(N, D) float32 raw, row = item_index - 1."""
        ...


class UserEncoder(Protocol):
    """Turns histories into user embeddings."""

    @property
    def max_history_length(self) -> int:
        """Of a longer history only the latest so many events are read."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D."""
        ...

    @property
    def kept_bytes(self) -> int:
        """Memory taken by what is kept of users between calls."""
        ...

    def window(self, num_items: int) -> int:
        """How many of the latest items of a history of ``num_items`` are read."""
        ...

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        """(B, D) float32 unit-norm, in the order of ``histories``; InvalidInput for an empty history."""
        ...

    def forget(self, owner: str) -> bool:
        """Drops what is kept of a user; whether there was something."""
        ...

    def forget_all(self) -> None:
        """Drops what is kept of all users."""
        ...


class KeepsNothing:
    """The part of a :class:`UserEncoder` that is the same for all that keep nothing of users between calls."""

    @property
    def kept_bytes(self) -> int:
        """None."""
        return 0

    def forget(self, owner: str) -> bool:  # noqa: ARG002
        """There is nothing to forget."""
        return False

    def forget_all(self) -> None:
        """There is nothing to forget."""


@runtime_checkable
class ExplainsByAttention(Protocol):
    """An encoder that can say how much it looked at each item; of others, likeness must do."""

    def explain(self, history: History) -> np.ndarray:
        """(window,) float32 at least 0, sums to 1: how much each item that is read weighs."""
        ...


@runtime_checkable
class KeepsStates(Protocol):
    """An encoder that keeps states of users between calls."""

    @property
    def kept_counts(self) -> CacheCounts:
        """How often a state was found, was not, and had to go."""
        ...


class Generator(Protocol):
    """Writes titles of the catalogue after a history."""

    def recommend(self, history: History, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(C,) int64 item indices, best first, C <= k, all ``allowed`` ((N,) bool); (C,) float32 log-probabilities."""
        ...
