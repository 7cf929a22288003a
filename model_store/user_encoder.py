"""Histories to user embeddings, over a bundle's stored item embeddings.

The service and the offline evaluation both come through here, so that what was measured is what is served.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from model_store import hllm
from model_store.errors import ArtifactIncompatible, InvalidInput
from model_store.hllm_files import load_hllm
from model_store.model import read_kind

# History places per forward pass: bounds memory when an evaluation passes thousands of histories at once. A
# service's batches stay far below and run as one.
_PLACES_PER_PASS = 16_384


@dataclass(frozen=True)
class History:
    """What one user did, oldest first.

    Attributes:
        item_indices: (L,) int64, 1..N, no zeros.
        timestamps: (L,) int64 seconds (or ranks, for a model that reads no time).
    """

    item_indices: np.ndarray
    timestamps: np.ndarray


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

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        """(B, D) float32 unit-norm, in the order of ``histories``; InvalidInput for an empty history."""
        ...


class ItemEmbeddings(Protocol):
    """What an encoder needs of a bundle."""

    @property
    def model_directory(self) -> Path:
        """Of the model that made the embeddings."""
        ...

    def item_embeddings(self, item_indices: np.ndarray) -> np.ndarray:
        """(...) int64 to (..., D) float32 raw, zeros for 0."""
        ...


def make_user_encoder(
    bundle: ItemEmbeddings, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> UserEncoder:
    """The encoder of a bundle's model.

    Args:
        bundle: Open and verified; it must outlive the encoder.
        device: Where the forward passes run.
        dtype: Of the weights; the result is float32 in any case.

    Raises:
        ArtifactIncompatible: This release knows no such kind of model.
    """
    kind = read_kind(bundle.model_directory)
    if kind not in _ENCODERS:
        raise ArtifactIncompatible(f"{bundle.model_directory}: no user encoder for models of kind {kind!r}")
    return _ENCODERS[kind](bundle, torch.device(device), dtype)


class HLLMUserEncoder:
    """Runs the User LLM over stored item embeddings. Keeps nothing between calls, so threads may share it.

    Args:
        bundle: Holds the embeddings and names the model.
        device: For the forward passes.
        dtype: Of the weights.
    """

    def __init__(self, bundle: ItemEmbeddings, device: torch.device, dtype: torch.dtype) -> None:
        self._bundle = bundle
        self._device = device
        self._dtype = dtype
        self._model = load_hllm(bundle.model_directory, device=device, dtype=dtype, parts={"user"}, merge_adapters=True)

    @property
    def max_history_length(self) -> int:
        """L of the model."""
        return self._model.config.max_history_length

    @property
    def embedding_dim(self) -> int:
        """D of the model."""
        return self._model.config.embedding_dim

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        """Encodes B histories.

        Args:
            histories: Oldest first; longer ones are cut to the latest ``max_history_length`` events.

        Returns:
            (B, D) float32 unit-norm; a row does not depend on the others beyond rounding.

        Raises:
            InvalidInput: A history is empty, has a row that is no item, or lacks timestamps.
        """
        cut = [self._cut(history) for history in histories]
        result = np.empty((len(cut), self.embedding_dim), dtype=np.float32)
        for rows in _passes([len(history.item_indices) for history in cut]):
            result[rows] = self._encode_padded([cut[row] for row in rows])
        return result

    def _cut(self, history: History) -> History:
        items = np.asarray(history.item_indices)[-self.max_history_length :]
        timestamps = np.asarray(history.timestamps)[-self.max_history_length :]
        if len(items) == 0 or items.shape != timestamps.shape or items.min() < 1:
            raise InvalidInput(
                f"a history of {len(items)} items and {len(timestamps)} timestamps: "
                "expected at least one item, each with its timestamp, and item_index from 1 on"
            )
        return History(items, timestamps)

    def _encode_padded(self, histories: Sequence[History]) -> np.ndarray:
        lengths = np.array([len(history.item_indices) for history in histories])
        is_item = np.arange(lengths.max())[None, :] < lengths[:, None]  # (B, L)
        item_indices = np.zeros(is_item.shape, dtype=np.int64)
        timestamps = np.zeros(is_item.shape, dtype=np.int64)
        item_indices[is_item] = np.concatenate([history.item_indices for history in histories])
        timestamps[is_item] = np.concatenate([history.timestamps for history in histories])
        embeddings = np.ascontiguousarray(self._bundle.item_embeddings(item_indices), dtype=np.float32)
        with torch.inference_mode():
            users = self._model.encode_users(
                torch.from_numpy(embeddings).to(self._device, self._dtype),
                torch.from_numpy(is_item).to(self._device),
                torch.from_numpy(timestamps).to(self._device),
            )
            unit: np.ndarray = torch.nn.functional.normalize(users.float(), dim=-1).cpu().numpy()
        return unit


def _passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Splits histories into padded batches: one if it is small, else length-sorted ones of bounded size."""
    if not lengths:
        return
    if len(lengths) * max(lengths) <= _PLACES_PER_PASS:
        yield list(range(len(lengths)))
        return
    rows: list[int] = []
    for row in np.argsort(np.asarray(lengths), kind="stable").tolist():
        if rows and (len(rows) + 1) * lengths[row] > _PLACES_PER_PASS:
            yield rows
            rows = []
        rows.append(row)
    yield rows


_ENCODERS: dict[str, Callable[[ItemEmbeddings, torch.device, torch.dtype], UserEncoder]] = {hllm.KIND: HLLMUserEncoder}
