"""What is kept of a user between two requests, and how it grows by one item.

Of each item of a history's window: the keys and values of its tokens in the OR band and of its last token in
the CR band (HatLLM's fast forward, ``model_store/hatllm/network.py``). A new event costs its item's tokens in OR and
one row in CR. Keys and values look backwards only, so a state may be cut back to any number of its first items and is
exact again; whatever a history changed into, the part that it shares with the state need not be computed again.
"""

import numpy as np
import torch


class KeyValues:
    """Keys and values of one user in one band; grows in steps, so that one event does not copy them all.

    Args:
        num_layers: Of the band.
        num_heads: H_kv.
        head_dim: d.
        dtype: Of keys and values.
        device: Where they lie.
    """

    def __init__(
        self, num_layers: int, num_heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._kept = torch.empty(num_layers, 2, num_heads, 0, head_dim, dtype=dtype, device=device)
        self.length = 0

    @property
    def num_bytes(self) -> int:
        """Memory taken, the reserve included."""
        return self._kept.numel() * self._kept.element_size()

    def reserve(self, length: int) -> None:
        """Makes room for this many rows."""
        capacity = self._kept.shape[3]
        if length <= capacity:
            return
        # a first history fits exactly; a growing one gets an eighth in reserve
        capacity = length if self.length == 0 else length + length // 8
        grown = self._kept.new_empty(*self._kept.shape[:3], capacity, self._kept.shape[4])
        grown[:, :, :, : self.length] = self._kept[:, :, :, : self.length]
        self._kept = grown

    def write(self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes rows (H_kv, n, d) of a layer (counted within the band) from ``start`` on."""
        stop = start + keys.shape[1]
        self._kept[layer, 0, :, start:stop] = keys
        self._kept[layer, 1, :, start:stop] = values

    def read(self, layer: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first ``length`` rows of a layer: keys and values, (H_kv, length, d) each."""
        return self._kept[layer, 0, :, :length], self._kept[layer, 1, :, :length]


class UserState:
    """A user's window, run through the network.

    Args:
        tokens: Empty keys and values of the OR band.
        items: Empty keys and values of the CR band.

    Attributes:
        item_indices: (n,) int64, the items that the state is of, oldest first.
        token_ends: (n,) int64, tokens up to and with each item.
        final: (H,) the network's final state at the last item's last token; None when there is no item.
    """

    def __init__(self, tokens: KeyValues, items: KeyValues) -> None:
        self.tokens = tokens
        self.items = items
        self.item_indices = np.empty(0, dtype=np.int64)
        self.token_ends = np.empty(0, dtype=np.int64)
        self.final: torch.Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of all items."""
        return int(self.token_ends[-1]) if len(self.token_ends) else 0

    @property
    def num_bytes(self) -> int:
        """Memory taken."""
        return self.tokens.num_bytes + self.items.num_bytes

    def cut_back(self, num_items: int) -> None:
        """Keeps the first ``num_items`` items; unless that is all of them, the final state is not known any more."""
        if num_items == len(self.item_indices):
            return
        self.item_indices = self.item_indices[:num_items]
        self.token_ends = self.token_ends[:num_items]
        self.tokens.length = self.num_tokens
        self.items.length = num_items
        self.final = None

    def cut_back_to(self, item_indices: np.ndarray) -> np.ndarray:
        """Keeps what the state shares with a history, from its beginning.

        Args:
            item_indices: (n,) int64, at least one item.

        Returns:
            (m,) int64, the items to run that are missing; none if the state is of exactly this history. If it is of
            a longer one, the last item is among them: its final state is wanted.
        """
        most = min(len(item_indices), len(self.item_indices))
        differs = np.flatnonzero(item_indices[:most] != self.item_indices[:most])
        shared = int(differs[0]) if len(differs) else most
        is_whole = shared == len(item_indices) == len(self.item_indices) and self.final is not None
        if not is_whole:
            shared = min(shared, len(item_indices) - 1)
        self.cut_back(shared)
        return item_indices[shared:]

    def append(self, item_indices: np.ndarray, token_ends: np.ndarray) -> None:
        """Adds items whose keys and values are written."""
        self.item_indices = np.concatenate((self.item_indices, item_indices))
        self.token_ends = np.concatenate((self.token_ends, token_ends))
        self.tokens.length = self.num_tokens
        self.items.length = len(self.item_indices)
