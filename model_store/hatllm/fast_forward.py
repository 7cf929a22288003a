"""HatLLM's fast forward for users of different lengths at once, each going on from what is kept of them.

The rows of all users lie one after the other, without padding: what a layer does to single rows (projections,
MLP) is one product over all of them, and only attention looks at one user at a time, at keys and values that are
kept where they are. The last layer of a band runs only for the rows that somebody needs afterwards: of OR the last
tokens, of CR the last item; of all others it makes keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from model_store.hatllm.network import HatLLM
from model_store.hatllm.user_state import KeyValues, UserState


@dataclass(frozen=True)
class NewItems:
    """What a user's state grows by.

    Attributes:
        state: Already cut back to what it shares with the history.
        item_indices: (m,) int64, at least one.
        states: (t, H) of their tokens after the IN band, one item after the other.
        lengths: (m,) int64, tokens of each.
    """

    state: UserState
    item_indices: np.ndarray
    states: torch.Tensor
    lengths: np.ndarray


def new_state(model: HatLLM) -> UserState:
    """A state of no items."""
    config = model.layers.model.config
    num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    table = model.user_head.weight
    tokens, items = (
        KeyValues(len(layers), num_heads, head_dim, dtype=table.dtype, device=table.device)
        for layers in (model.or_layers, model.cr_layers)
    )
    return UserState(tokens, items)


@torch.no_grad()
def extend(model: HatLLM, users: Sequence[NewItems], *, weights: "AttentionWeights | None" = None) -> None:
    """Runs new items of B users and adds them to their states.

    Args:
        model: With adapters merged; ``runs_fast``.
        users: Each with a state of its own.
        weights: Collects how much the last row looked at each item; for one user.
    """
    ends = [user.state.num_tokens + np.cumsum(user.lengths) for user in users]
    past_tokens = [user.state.num_tokens for user in users]
    past_items = [len(user.state.item_indices) for user in users]
    states = torch.cat([user.states for user in users])[None]
    last_tokens = [end - 1 - past for end, past in zip(ends, past_tokens, strict=True)]
    last_items = [np.array([len(end) - 1]) for end in ends]
    has_cr = len(model.cr_layers) > 0
    token_band = _Band(
        [user.state.tokens for user in users],
        positions=[np.arange(past, end[-1]) for past, end in zip(past_tokens, ends, strict=True)],
        past=past_tokens,
        first_layer=model.or_layers.start,
        weights=None if has_cr else weights,
    )
    item_band = _Band(
        [user.state.items for user in users],
        positions=[end - 1 for end in ends],
        past=past_items,
        first_layer=model.cr_layers.start,
        weights=weights,
    )
    if has_cr:
        states = token_band.run(model, states, model.or_layers, needed=last_tokens)
        states = item_band.run(model, states, model.cr_layers, needed=last_items)
    else:
        needed = [tokens[-1:] for tokens in last_tokens]
        states = token_band.run(model, states, model.or_layers, needed=needed)
    finals = model.layers.finish(states)[0]
    for user, end, final in zip(users, ends, finals, strict=True):
        user.state.append(user.item_indices, end)
        user.state.final = final.clone()


class AttentionWeights:
    """Collects what the last row of one user looks at, layer by layer."""

    def __init__(self) -> None:
        self._layers: list[torch.Tensor] = []

    def look(self, query: torch.Tensor, keys: torch.Tensor, *, scaling: float) -> None:
        """Query (H, d), keys (H, n, d)."""
        scores = (keys @ query[:, :, None])[:, :, 0].float() * scaling
        self._layers.append(scores.softmax(dim=-1).mean(dim=0))

    def mean(self) -> np.ndarray:
        """(n,) float32, mean over heads and layers; sums to 1."""
        weights: np.ndarray = torch.stack(self._layers).mean(dim=0).cpu().numpy()
        return weights


class _Band:
    """One band's layers over the rows of all users; is itself the attention that those layers use."""

    def __init__(
        self,
        kept: Sequence[KeyValues],
        *,
        positions: Sequence[np.ndarray],
        past: Sequence[int],
        first_layer: int,
        weights: AttentionWeights | None,
    ) -> None:
        self._kept = kept
        self._past = list(past)
        self._counts = [len(rows) for rows in positions]
        self._positions = np.concatenate(positions)
        self._first_layer = first_layer
        self._weights = weights
        self._rows: list[np.ndarray] | None = None
        for values, start, count in zip(kept, past, self._counts, strict=True):
            values.reserve(start + count)

    def run(self, model: HatLLM, states: torch.Tensor, layers: range, *, needed: Sequence[np.ndarray]) -> torch.Tensor:
        """Runs the band on (1, S, H); returns (1, R, H), the rows that are needed of each user, counted within it."""
        starts = np.cumsum([0, *self._counts[:-1]])
        chosen = torch.from_numpy(np.concatenate([rows + start for rows, start in zip(needed, starts, strict=True)]))
        chosen = chosen.to(states.device)
        positions = torch.from_numpy(self._positions)[None].to(states.device)
        if not layers:
            return states[:, chosen]
        whole = layers[:-1] if model.layers.has_known_layers else layers
        states = model.layers.run(states, whole, positions, attend=self)
        if len(whole) == len(layers):
            return states[:, chosen]
        last = layers[-1]
        keys, values = model.layers.keys_and_values(states, last, model.layers.rotation(states, positions))
        self._write(last, keys, values)
        self._rows = list(needed)
        return model.layers.run(states[:, chosen], [last], positions[:, chosen], attend=self)

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float
    ) -> torch.Tensor:
        """(1, H, S, d) of all users' rows -> (1, S, H, d)."""
        if self._rows is None:
            self._write(layer, key, value)
        rows: list[np.ndarray | None] = [None] * len(self._kept) if self._rows is None else list(self._rows)
        counts = self._counts if self._rows is None else [len(chosen) for chosen in self._rows]
        parts = [
            self._attend(layer, user, part, chosen, scaling)
            for user, (part, chosen) in enumerate(zip(query.split(counts, dim=2), rows, strict=True))
        ]
        return torch.cat(parts, dim=2).transpose(1, 2)

    def _write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        parts = zip(keys[0].split(self._counts, dim=1), values[0].split(self._counts, dim=1), strict=True)
        for kept, past, (user_keys, user_values) in zip(self._kept, self._past, parts, strict=True):
            kept.write(layer - self._first_layer, past, user_keys, user_values)

    def _attend(
        self, layer: int, user: int, query: torch.Tensor, rows: np.ndarray | None, scaling: float
    ) -> torch.Tensor:
        past, count = self._past[user], self._counts[user]
        keys, values = self._kept[user].read(layer - self._first_layer, past + count)
        if self._weights is not None:
            groups = query.shape[1] // keys.shape[0]
            self._weights.look(query[0, :, -1], keys.repeat_interleave(groups, dim=0), scaling=scaling)
        is_whole_history = past == 0 and rows is None
        mask = None if is_whole_history else _mask(past, count, rows, query.device)
        attended: torch.Tensor = functional.scaled_dot_product_attention(
            query,
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=is_whole_history and count > 1,
            scale=scaling,
            enable_gqa=query.shape[1] != keys.shape[0],
        )
        return attended


def _mask(past: int, count: int, rows: np.ndarray | None, device: torch.device) -> torch.Tensor | None:
    """(R, past + count) bool; None where one row sees everything."""
    seen = past + (np.arange(count) if rows is None else rows)  # the last key that each row sees
    if len(seen) == 1 and seen[0] == past + count - 1:
        return None
    mask = np.arange(past + count)[None, :] <= seen[:, None]
    return torch.from_numpy(mask).to(device)
