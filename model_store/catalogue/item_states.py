"""What a bundle keeps of each item beside its embedding: its tokens and, for a HatLLM, their states after IN."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model_store.artifacts.mapped_tensors import map_tensors
from model_store.errors import ArtifactCorrupt

TOKENS_FILE = "item_tokens.safetensors"
STATES_FILE = "item_states.safetensors"
STATES_TENSOR = "item_states"


@dataclass(frozen=True)
class ItemTokens:
    """The tokens of N items, flat; safe to share between threads.

    Attributes:
        token_ids: (M,) int32.
        offsets: (N + 1,) int64; the item ``item_index`` has tokens ``offsets[item_index - 1]:offsets[item_index]``.
    """

    token_ids: np.ndarray
    offsets: np.ndarray

    def tokens_of(self, item_indices: np.ndarray) -> list[list[int]]:
        """Token ids of items (n,), each from 1 to N."""
        return [self.token_ids[self.offsets[index - 1] : self.offsets[index]].tolist() for index in item_indices]

    def lengths(self, item_indices: np.ndarray) -> np.ndarray:
        """(n,) int64, tokens of items."""
        counts: np.ndarray = self.offsets[item_indices] - self.offsets[item_indices - 1]
        return counts

    def rows(self, item_indices: np.ndarray) -> np.ndarray:
        """(t,) int64, where all the items' tokens lie in ``token_ids``, one item after the other."""
        lengths = self.lengths(item_indices)
        first = np.repeat(self.offsets[item_indices - 1] - np.cumsum(lengths) + lengths, lengths)
        rows: np.ndarray = first + np.arange(len(first))
        return rows


def read_tokens(path: Path, *, num_items: int) -> ItemTokens:
    """Reads the tokens of a bundle.

    Raises:
        ArtifactCorrupt: The file cannot be read, or is not of this many items.
    """
    token_ids, offsets = map_tensors(path, ("token_ids", "offsets"))
    tokens = ItemTokens(token_ids.numpy(), offsets.numpy())
    if tokens.offsets.shape != (num_items + 1,) or tokens.offsets[-1] != len(tokens.token_ids):
        raise ArtifactCorrupt(f"{path} has offsets {tokens.offsets.shape}, but the manifest says {num_items} items")
    return tokens


def map_states(path: Path, *, tokens: ItemTokens) -> torch.Tensor:
    """Maps states (M, H) into memory, in the dtype that they were written in; processes share the pages.

    Raises:
        ArtifactCorrupt: The file cannot be read, or is not of these tokens.
    """
    (states,) = map_tensors(path, (STATES_TENSOR,))
    if states.ndim != 2 or len(states) != len(tokens.token_ids):
        raise ArtifactCorrupt(f"{path} has {tuple(states.shape)} states, expected {len(tokens.token_ids)} rows")
    return states
