"""Looks into the dense forward: what every token of one history attends to, layer by layer."""

from collections.abc import Iterable, Sequence

import torch

from model_store.hatllm.masks import Band, layer_masks
from model_store.hatllm.network import HatLLM


class AttentionMaps:
    """Attention, computed the long way, that keeps the probabilities of some layers.

    Args:
        masks: One (B, 1, T, T) bool per layer.
        layers: Which layers' probabilities are kept.

    Attributes:
        maps: Layer to (B, T, T) float32, mean over heads; rows sum to 1.
    """

    def __init__(self, masks: Sequence[torch.Tensor], layers: Iterable[int]) -> None:
        self._masks = masks
        self._layers = frozenset(layers)
        self.maps: dict[int, torch.Tensor] = {}

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float
    ) -> torch.Tensor:
        """(B, H, T, d) -> (B, T, H, d)."""
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = (query @ key.transpose(2, 3)).float() * scaling
        weights = scores.masked_fill(~self._masks[layer], float("-inf")).softmax(dim=-1)
        if layer in self._layers:
            self.maps[layer] = weights.mean(dim=1)
        return (weights.to(value.dtype) @ value).transpose(1, 2)


@torch.no_grad()
def attention_maps(
    model: HatLLM,
    input_ids: torch.Tensor,
    item_map: torch.Tensor,
    *,
    layers: Iterable[int] | None = None,
    is_masked: bool = True,
) -> dict[int, torch.Tensor]:
    """Attention probabilities of a batch without padding.

    Args:
        model: In evaluation mode.
        input_ids: (B, T) int64.
        item_map: (B, T) int64, the item of each token from 1 on, 0 = of none.
        layers: Which layers; None: all.
        is_masked: Off runs the same weights under the plain causal mask in every layer.

    Returns:
        Layer to (B, T, T) float32, mean over heads.
    """
    wanted = range(model.layers.num_layers) if layers is None else layers
    bands: Sequence[Band] = model.bands if is_masked else ["or"] * len(model.bands)
    maps = AttentionMaps(layer_masks(bands, item_map, options=model.config.mask_options), wanted)
    model.dense_states(input_ids, item_map, attend=maps)
    return maps.maps
