"""Runs some of a decoder's layers, on whatever rows they are needed for.

The library's ``forward`` runs all layers on all tokens. HatLLM's bands are run apart: IN on single items, OR on
tokens, CR on one row per item, so the layers are called one by one, by the library's own code and weights.
"""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from model_store.backbone.layered_attention import Attend
from model_store.backbone.lora import is_adapted

# of these the inside of a layer is known, so that keys and values can be had without the rest of the layer
_KNOWN_LAYERS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
# rotations that depend on positions alone; others change with the length of the text
_FIXED_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})


class DecoderLayers:
    """The parts of a decoder.

    Args:
        model: A transformers base model, or one with adapters in it.
    """

    def __init__(self, model: Any) -> None:
        self.model: PreTrainedModel = model.get_base_model() if is_adapted(model) else model
        parts: Any = self.model
        self.layers = getattr(parts, "layers", None)
        self.norm = getattr(parts, "norm", None)
        self.rotary = getattr(parts, "rotary_emb", None)

    @property
    def num_layers(self) -> int:
        """Depth."""
        return int(self.model.config.num_hidden_layers)

    @property
    def can_run_apart(self) -> bool:
        """Whether layers can be run one by one, at positions that are only relative."""
        if self.layers is None or self.norm is None or self.rotary is None:
            return False
        return getattr(self.rotary, "rope_type", "default") in _FIXED_ROTATIONS

    @property
    def has_known_layers(self) -> bool:
        """Whether :meth:`keys_and_values` knows this architecture."""
        return self.model.config.model_type in _KNOWN_LAYERS

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(...) int64 token ids to (..., H)."""
        embedded: torch.Tensor = self.model.get_input_embeddings()(input_ids)
        return embedded

    def rotation(self, states: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of (B, T) int64 positions, (B, T, d) each, in the dtype of ``states``."""
        assert self.rotary is not None
        cosines, sines = self.rotary(states, position_ids=positions)
        return cosines, sines

    def run(
        self,
        states: torch.Tensor,
        layers: Iterable[int],
        positions: torch.Tensor,
        *,
        layer_masks: list[torch.Tensor] | None = None,
        attend: Attend | None = None,
    ) -> torch.Tensor:
        """Runs layers one after the other.

        Args:
            states: (B, T, H).
            layers: Which ones.
            positions: (B, T) or (1, T) int64.
            layer_masks: One (B, 1, T, T) bool per layer of the whole model; None: causal.
            attend: Attention instead of the library's.

        Returns:
            (B, T, H).
        """
        assert self.layers is not None
        rotation = self.rotation(states, positions)
        options: dict[str, Any] = {}
        if layer_masks is not None:
            options["layer_masks"] = layer_masks
        if attend is not None:
            options["attend"] = attend
        for index in layers:
            states = self.layers[index](
                states, attention_mask=None, position_ids=positions, position_embeddings=rotation, **options
            )
        return states

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        """The norm after the last layer."""
        assert self.norm is not None
        normed: torch.Tensor = self.norm(states)
        return normed

    def keys_and_values(
        self, states: torch.Tensor, layer: int, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer shows others of rows whose own result nobody needs.

        Args:
            states: (B, T, H) the layer's input.
            layer: Which one, of an architecture that :attr:`has_known_layers` knows.
            rotation: Of the rows' positions.

        Returns:
            Keys (after their rotation) and values, (B, H_kv, T, d) each.
        """
        assert self.layers is not None
        block = self.layers[layer]
        attention = block.self_attn
        normed = block.input_layernorm(states)
        shape = (*states.shape[:-1], -1, attention.head_dim)
        keys = attention.k_proj(normed).view(shape)
        if hasattr(attention, "k_norm"):
            keys = attention.k_norm(keys)
        values = attention.v_proj(normed).view(shape)
        cosines, sines = (part.unsqueeze(1) for part in rotation)
        keys = keys.transpose(1, 2)
        return keys * cosines + _rotate_half(keys) * sines, values.transpose(1, 2)


def _rotate_half(states: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
