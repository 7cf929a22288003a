"""Histories to user embeddings by all members of a blend."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model_store.blend.files import MEMBERS, read_config
from model_store.catalogue.catalogue import check_item_indices
from model_store.encoding import EncodedItems, KeepsNothing
from model_store.hllm.user_encoder import HLLMUserEncoder
from model_store.people.histories import History


@dataclass(frozen=True)
class MemberItems:
    """The item embeddings of one member, as its encoder reads them.

    Attributes:
        model_directory: Of the member.
        bundle: Holds the embeddings of all members.
        part: Which columns are this member's.
    """

    model_directory: Path
    bundle: EncodedItems
    part: slice

    def item_embeddings(self, item_indices: np.ndarray) -> np.ndarray:
        """(...) int64 to (..., width) float32 raw, zeros for 0; InvalidInput for an index out of range."""
        rows = self.bundle.embeddings[:, self.part]
        check_item_indices(item_indices, num_items=len(rows))
        found = np.take(rows, np.maximum(item_indices, 1) - 1, axis=0)
        found[item_indices == 0] = 0.0
        return found


class BlendUserEncoder(KeepsNothing):
    """Runs each member's user side. Keeps nothing between calls, so threads may share it.

    Args:
        bundle: Holds the embeddings and names the model.
        device: For the forward passes.
        dtype: Of the weights.
    """

    def __init__(self, bundle: EncodedItems, device: torch.device, dtype: torch.dtype) -> None:
        self.heads = read_config(bundle.model_directory).heads
        self._members = [
            HLLMUserEncoder(MemberItems(bundle.model_directory / MEMBERS / head.name, bundle, part), device, dtype)
            for head, part in zip(self.heads.heads, self.heads.slices(), strict=True)
        ]

    @property
    def max_history_length(self) -> int:
        """The longest of the members' own."""
        return max(member.max_history_length for member in self._members)

    @property
    def embedding_dim(self) -> int:
        """D, of all heads and the slack."""
        return self.heads.embedding_dim

    def window(self, num_items: int) -> int:
        """The latest of them, as many as the member with the longest memory reads."""
        return min(num_items, self.max_history_length)

    def encode(self, histories: Sequence[History]) -> np.ndarray:
        """Encodes B histories with every member.

        Args:
            histories: Oldest first; each member reads as many of the latest events as it knows.

        Returns:
            (B, D) float32 unit-norm: the members' user embeddings, times the roots of their shares, side by side.

        Raises:
            InvalidInput: A history is empty, or has a row that is no item.
        """
        parts = [member.encode(histories) for member in self._members]
        shares = np.sqrt(np.array(self.heads.shares(), dtype=np.float32))
        slack = np.zeros((len(histories), 1), dtype=np.float32)
        return np.concatenate([part * share for part, share in zip(parts, shares, strict=True)] + [slack], axis=1)
