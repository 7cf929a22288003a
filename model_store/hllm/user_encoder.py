"""Histories to user embeddings by an HLLM's User LLM, over a bundle's stored item embeddings."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from model_store.encoding import ItemEmbeddings, KeepsNothing
from model_store.hllm.files import load_hllm
from model_store.index import normalize
from model_store.people.histories import History, cut_history

# History places per forward pass: bounds memory when an evaluation passes thousands of histories at once. A
# service's batches stay far below and run as one.
_PLACES_PER_PASS = 16_384


class HLLMUserEncoder(KeepsNothing):
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
        self.model = load_hllm(bundle.model_directory, device=device, dtype=dtype, parts={"user"}, merge_adapters=True)

    @property
    def max_history_length(self) -> int:
        """L of the model."""
        return self.model.config.max_history_length

    @property
    def embedding_dim(self) -> int:
        """D of the model."""
        return self.model.config.embedding_dim

    def window(self, num_items: int) -> int:
        """The latest L."""
        return min(num_items, self.max_history_length)

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        """Encodes B histories.

        Args:
            histories: Oldest first; longer ones are cut to the latest ``max_history_length`` events.

        Returns:
            (B, D) float32 unit-norm; a row does not depend on the others beyond rounding.

        Raises:
            InvalidInput: A history is empty, has a row that is no item, or lacks timestamps.
        """
        cut = [cut_history(history, self.window(len(history.item_indices))) for history in histories]
        result = np.empty((len(cut), self.embedding_dim), dtype=np.float32)
        for rows in _passes([len(history.item_indices) for history in cut]):
            result[rows] = self._encode_padded([cut[row] for row in rows])
        return result

    def _encode_padded(self, histories: Sequence[History]) -> np.ndarray:
        lengths = np.array([len(history.item_indices) for history in histories])
        is_item = np.arange(lengths.max())[None, :] < lengths[:, None]  # (B, L)
        item_indices = np.zeros(is_item.shape, dtype=np.int64)
        timestamps = np.zeros(is_item.shape, dtype=np.int64)
        item_indices[is_item] = np.concatenate([history.item_indices for history in histories])
        timestamps[is_item] = np.concatenate([history.timestamps for history in histories])
        embeddings = np.ascontiguousarray(self._bundle.item_embeddings(item_indices), dtype=np.float32)
        with torch.inference_mode():
            users = self.model.encode_users(
                torch.from_numpy(embeddings).to(self._device, self._dtype),
                torch.from_numpy(is_item).to(self._device),
                torch.from_numpy(timestamps).to(self._device),
            )
            return normalize(users.float().cpu().numpy())


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
