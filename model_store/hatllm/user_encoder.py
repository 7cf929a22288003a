"""Histories to user embeddings by a HatLLM: by the fast forward with kept states, or by the dense one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from model_store.catalogue.item_states import ItemTokens
from model_store.catalogue.item_text import TokenBatch
from model_store.encoding import CacheCounts, ItemTitles
from model_store.errors import ArtifactIncompatible
from model_store.hatllm.attention_maps import attention_maps
from model_store.hatllm.config import window
from model_store.hatllm.fast_forward import AttentionWeights, NewItems, extend, new_state
from model_store.hatllm.files import load_hatllm
from model_store.hatllm.network import HatLLM
from model_store.hatllm.state_cache import StateCache
from model_store.hatllm.user_state import UserState
from model_store.index import normalize
from model_store.people.histories import History, cut_history

# Token rows of one forward pass; more histories are run one pass after the other.
_ROWS_PER_PASS = 16_384


class HatLLMUserEncoder:
    """Runs a HatLLM over the titles of histories.

    What the fast forward has computed of a history with an owner is kept and grown by the next event; it is used as
    far as the history begins with the very same items, so it cannot be stale. One thread at a time encodes.

    Args:
        bundle: Holds tokens and states of the items, and names the model.
        device: For the forward passes.
        dtype: Of the weights.
        state_bytes: Memory for kept states.

    Raises:
        ArtifactIncompatible: The bundle lacks what the model needs.
    """

    def __init__(self, bundle: ItemTitles, device: torch.device, dtype: torch.dtype, *, state_bytes: int) -> None:
        self.model: HatLLM = load_hatllm(
            bundle.model_directory, device=device, dtype=dtype, parts={"user"}, merge_adapters=True
        )
        if bundle.item_tokens is None or (self.model.runs_fast and bundle.item_states is None):
            missing = "item_tokens" if bundle.item_tokens is None else "item_states"
            raise ArtifactIncompatible(f"the bundle has no {missing}, which a HatLLM needs; run offline.reindex")
        self._tokens: ItemTokens = bundle.item_tokens
        self._item_states = bundle.item_states
        self._device, self._dtype = device, dtype
        self._kept = StateCache(state_bytes)

    @property
    def max_history_length(self) -> int:
        """M of the model."""
        return self.model.config.max_history_length

    @property
    def embedding_dim(self) -> int:
        """D of the model."""
        return self.model.config.embedding_dim

    @property
    def kept_bytes(self) -> int:
        """Of the states of users."""
        return self._kept.num_bytes

    @property
    def kept_counts(self) -> CacheCounts:
        """How often a state was found, was not, and had to go."""
        return self._kept.counts

    def window(self, num_items: int) -> int:
        """How many of the latest items of a history are read: up to M, re-based to about half of it."""
        return window(num_items, self.max_history_length)

    def forget(self, owner: str) -> bool:
        """Drops what is kept of a user."""
        return self._kept.forget(owner)

    def forget_all(self) -> None:
        """Drops what is kept of all users."""
        self._kept.forget_all()

    @torch.no_grad()
    def encode(self, histories: Sequence[History]) -> np.ndarray:
        """Encodes B histories, each cut to its window.

        Returns:
            (B, D) float32 unit-norm; a row does not depend on the others, nor on what was kept, beyond rounding.

        Raises:
            InvalidInput: A history is empty or has a row that is no item.
        """
        cut = [cut_history(history, self.window(len(history.item_indices))) for history in histories]
        users = np.empty((len(cut), self.embedding_dim), dtype=np.float32)
        for rows in self._passes(cut):
            chosen = [cut[row] for row in rows]
            raw = self._fast(chosen) if self.model.runs_fast else self._dense(chosen)
            users[rows] = normalize(raw.float().cpu().numpy())
        return users

    @torch.no_grad()
    def explain(self, history: History) -> np.ndarray:
        """How much the query looked at each item: the CR band's attention, mean over heads and layers.

        Without a CR band it is the last layers' attention over the tokens of each item.

        Returns:
            (window,) float32, sums to 1.
        """
        history = cut_history(history, self.window(len(history.item_indices)))
        looked = self._looked_fast(history) if self.model.runs_fast else self._looked_dense(history)
        shares: np.ndarray = (looked / looked.sum()).astype(np.float32)
        return shares

    @contextmanager
    def state_of(self, history: History) -> Iterator[UserState]:
        """The state of a history, run through the network; nobody else works on it meanwhile.

        Args:
            history: At least one item; cut to its window here.
        """
        history = cut_history(history, self.window(len(history.item_indices)))
        with self._borrowed([history]) as (state,):
            self._bring_up_to_date([state], [history])
            yield state

    def _fast(self, histories: Sequence[History]) -> torch.Tensor:
        with self._borrowed(histories) as states:
            self._bring_up_to_date(states, histories)
            finals = torch.stack([final for state in states if (final := state.final) is not None])
        queries: torch.Tensor = self.model.user_head(finals)
        return queries

    def _bring_up_to_date(self, states: Sequence[UserState], histories: Sequence[History]) -> None:
        missing = [state.cut_back_to(one.item_indices) for state, one in zip(states, histories, strict=True)]
        work = [self.read_new_items(state, items) for state, items in zip(states, missing, strict=True) if len(items)]
        if work:
            extend(self.model, work)

    def read_new_items(self, state: UserState, item_indices: np.ndarray) -> NewItems:
        """What the layers after IN need of items (n,) that a kept state does not have yet."""
        assert self._item_states is not None
        rows = torch.from_numpy(self._tokens.rows(item_indices))
        return NewItems(
            state=state,
            item_indices=item_indices,
            states=self._item_states[rows].to(self._device, self._dtype),
            lengths=self._tokens.lengths(item_indices),
        )

    @contextmanager
    def _borrowed(self, histories: Sequence[History]) -> Iterator[list[UserState]]:
        """Takes the kept states of the owners, or new ones; puts them back unless something failed."""
        since = self._kept.now()
        states = []
        for history in histories:
            kept = None if history.owner is None else self._kept.take(history.owner)
            states.append(kept or new_state(self.model))
        yield states
        for history, state in zip(histories, states, strict=True):
            if history.owner is not None:
                self._kept.put(history.owner, state, since=since)

    def _dense(self, histories: Sequence[History]) -> torch.Tensor:
        tokens, places = self._batch(histories)
        queries = self.model.dense_queries(tokens, places)
        last = (places >= 0).sum(dim=1) - 1
        return queries[torch.arange(len(queries), device=queries.device), last]

    def _batch(self, histories: Sequence[History]) -> tuple[TokenBatch, torch.Tensor]:
        """The distinct items of histories as a batch of tokens, and where each lies: (B, L), -1 = padding."""
        distinct, inverse = np.unique(np.concatenate([one.item_indices for one in histories]), return_inverse=True)
        lengths = np.array([len(one.item_indices) for one in histories])
        places = np.full((len(histories), lengths.max()), -1, dtype=np.int64)
        places[np.arange(lengths.max())[None, :] < lengths[:, None]] = inverse
        tokens = self.model.item_tokenizer.collate(self._tokens.tokens_of(distinct))
        return tokens.to(self._device), torch.from_numpy(places).to(self._device)

    def _looked_fast(self, history: History) -> np.ndarray:
        num_items = len(history.item_indices)
        weights = AttentionWeights()
        with self._borrowed([history]) as (state,):
            state.cut_back_to(history.item_indices)
            # the last item is run again, to see what its row looks at
            state.cut_back(min(len(state.item_indices), num_items - 1))
            extend(
                self.model,
                [self.read_new_items(state, history.item_indices[len(state.item_indices) :])],
                weights=weights,
            )
            ends = state.token_ends
        looked = weights.mean()
        return looked if self.model.cr_layers else _per_item(looked, ends)

    def _looked_dense(self, history: History) -> np.ndarray:
        tokens, places = self._batch([history])
        input_ids, item_map, _ = self.model.dense_inputs(tokens, self.model.lay_out(tokens, places))
        layers = [layer for layer, band in enumerate(self.model.bands) if band == "cr"] or range(len(self.model.bands))
        maps = attention_maps(self.model, input_ids, item_map, layers=layers)
        looked = torch.stack([kept[0, -1] for kept in maps.values()]).mean(dim=0).cpu().numpy()
        is_item = item_map[0].cpu().numpy() > 0
        ends = np.cumsum(self._tokens.lengths(history.item_indices))
        return _per_item(looked[is_item], ends)

    def _passes(self, histories: Sequence[History]) -> Iterator[list[int]]:
        """Splits histories into forward passes of bounded size."""
        rows: list[int] = []
        total = 0
        for row, history in enumerate(histories):
            count = int(self._tokens.lengths(history.item_indices).sum())
            if rows and total + count > _ROWS_PER_PASS:
                yield rows
                rows, total = [], 0
            rows.append(row)
            total += count
        if rows:
            yield rows


def _per_item(looked: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(T,) weights of tokens to (n,) of the items that end there."""
    summed: np.ndarray = np.add.reduceat(looked, np.concatenate(([0], ends[:-1])))
    return summed
