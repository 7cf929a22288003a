"""How much of a layer's attention leaves the item: the measurement that HatLLM's masks are motivated by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model_store.catalogue.catalogue import TITLE, Catalogue
from model_store.hatllm.attention_maps import attention_maps
from model_store.hatllm.config import window
from model_store.hatllm.network import HatLLM
from offline.job import job


@dataclass
class AttentionShares:
    """Attention of one layer, summed over the tokens of many histories that have an earlier item to look at.

    Attributes:
        num_queries: Such tokens.
        cross: Attention on tokens of other items; a token's attention to everything is 1.
        own: On earlier tokens of its own item.
        itself: On itself.
        cross_pairs: Pairs of such a token and a token of an earlier item, whether the mask lets it look there or not.
        intra_pairs: Pairs within an item, a token and itself among them.
    """

    num_queries: int = 0
    cross: float = 0.0
    own: float = 0.0
    itself: float = 0.0
    cross_pairs: int = 0
    intra_pairs: int = 0

    def add(self, weights: torch.Tensor, item_map: torch.Tensor) -> None:
        """Counts one history in.

        Args:
            weights: (T, T) float, row = who looks; rows sum to 1.
            item_map: (T,) int64, from 1 on the ordinal of a token's item, 0 = of none.
        """
        queries = (item_map > 1).nonzero()[:, 0]
        places = torch.arange(len(item_map), device=item_map.device)
        looked = weights[queries].double()
        is_itself = places[None, :] == queries[:, None]
        is_earlier = places[None, :] < queries[:, None]
        is_own = item_map[None, :] == item_map[queries, None]
        is_cross = ~is_own & (item_map > 0)[None, :] & is_earlier
        is_own &= is_earlier
        self.num_queries += len(queries)
        self.cross += float(looked[is_cross].sum())
        self.own += float(looked[is_own].sum())
        self.itself += float(looked[is_itself].sum())
        self.cross_pairs += int(is_cross.sum())
        self.intra_pairs += int(is_own.sum()) + len(queries)

    def figures(self) -> dict[str, Any]:
        """The shares, and what a pair within an item gets over a pair across items.

        Returns:
            ``cross_item``, ``own_item``, ``itself`` and ``no_item`` (a prompt), which sum to 1; ``pair_ratio``, None
            where nothing crosses items. All None without a token that has an earlier item.
        """
        if not self.num_queries:
            return dict.fromkeys(("cross_item", "own_item", "itself", "no_item", "pair_ratio"))
        shares = [part / self.num_queries for part in (self.cross, self.own, self.itself)]
        intra = (self.own + self.itself) / self.intra_pairs
        ratio = intra * self.cross_pairs / self.cross if self.cross else None
        return {
            **dict(zip(("cross_item", "own_item", "itself"), shares, strict=True)),
            "no_item": max(0.0, 1.0 - sum(shares)),
            "pair_ratio": ratio,
        }


@dataclass(frozen=True)
class ReadHistory:
    """A history as the dense forward reads it.

    Attributes:
        item_indices: (L,) int64, of the items that are read.
        input_ids: (1, T) int64.
        item_map: (1, T) int64, the ordinal of each token's item from 1 on, 0 = of none.
    """

    item_indices: np.ndarray
    input_ids: torch.Tensor
    item_map: torch.Tensor


class HistoryReader:
    """Cuts histories to what fits and turns them into tokens.

    Args:
        model: In evaluation mode.
        catalogue: Of the histories' items.
        max_tokens: Of a history, prompt not counted.
    """

    def __init__(self, model: HatLLM, catalogue: Catalogue, *, max_tokens: int) -> None:
        known = (TITLE, *catalogue.attribute_names)
        self._model = model
        self._catalogue = catalogue
        self._fields = [name for name in model.config.text_fields if name in known]
        self._max_tokens = max_tokens

    def text(self, item_index: int) -> str:
        """What the model reads of an item."""
        return self._model.render_item(self._catalogue.fields(item_index, self._fields))

    def read(self, item_indices: np.ndarray) -> ReadHistory:
        """Reads the latest items of a history: the model's window, and of that what fits ``max_tokens``."""
        items = item_indices[-window(len(item_indices), self._model.config.max_history_length) :]
        distinct, places = np.unique(items, return_inverse=True)
        segments = self._model.item_tokenizer.encode([self.text(int(item)) for item in distinct])
        lengths = np.array([len(segments[place]) for place in places])
        num_fitting = int((np.cumsum(lengths[::-1]) <= self._max_tokens).sum())
        items, places = items[-max(1, num_fitting) :], places[-max(1, num_fitting) :]
        device = self._model.user_head.weight.device
        tokens = self._model.item_tokenizer.collate(segments).to(device)
        windows = self._model.lay_out(tokens, torch.from_numpy(places.astype(np.int64))[None].to(device))
        input_ids, item_map, _ = self._model.dense_inputs(tokens, windows)
        return ReadHistory(items, input_ids, item_map)


def measure_shares(model: HatLLM, reader: HistoryReader, histories: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Where the attention of each layer goes, with the model's masks and without any.

    Args:
        model: In evaluation mode.
        reader: Of the same model.
        histories: item_indices of each user, oldest first.

    Returns:
        Per layer its ``band`` and, ``masked`` and ``unmasked``, the figures of :class:`AttentionShares`.
    """
    totals = {is_masked: [AttentionShares() for _ in model.bands] for is_masked in (True, False)}
    for items in job.progress(histories, description="users", unit="user"):
        history = reader.read(items)
        for is_masked, shares in totals.items():
            maps = attention_maps(model, history.input_ids, history.item_map, is_masked=is_masked)
            for layer, weights in maps.items():
                shares[layer].add(weights[0], history.item_map[0])
    return [
        {
            "layer": layer,
            "band": band,
            "masked": totals[True][layer].figures(),
            "unmasked": totals[False][layer].figures(),
        }
        for layer, band in enumerate(model.bands)
    ]
