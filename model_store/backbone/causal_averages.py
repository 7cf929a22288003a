"""Causal averages beside attention: each channel of a layer's input, averaged over the past at a rate of its own.

BSARec (AAAI 2024, arXiv 2312.10325) adds a frequency filter to self-attention, for attention alone forgets the
order of short histories. Ours is causal and learns a rate per channel instead of one cut-off frequency, so that one
pass still trains every position: the layer's attention output becomes
``(1 - share) * attention + share * average``.
"""

from typing import Any

import torch
from torch import nn

from model_store.backbone.decoder_layers import DecoderLayers
from model_store.errors import InvalidInput

# decays that the channels begin with, from the latest item alone to about ten items
_FIRST_DECAY, _LAST_DECAY = 0.05, 0.9


class CausalAverages(nn.Module):
    """Weighted means of a sequence up to each position; a weight falls by the channel's decay per step back.

    Args:
        width: H, channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decay_logit = nn.Parameter(torch.logit(torch.linspace(_FIRST_DECAY, _LAST_DECAY, width)))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, T, H) to (B, T, H); position t is a mean of the positions 0..t."""
        places = torch.arange(states.shape[1], device=states.device)
        steps_back = places[:, None] - places[None, :]  # (T, T)
        log_decay = nn.functional.logsigmoid(self.decay_logit.float())
        powers = (steps_back.clamp(min=0) * log_decay[:, None, None]).exp()  # (H, T, T)
        weights = powers * (steps_back >= 0)
        weights = (weights / weights.sum(dim=2, keepdim=True)).to(states.dtype)
        return torch.einsum("hts,bsh->bth", weights, states)


def average_layers(model: nn.Module, *, share: float) -> nn.ModuleList:
    """Mixes averages into every decoder layer of a language model, which keeps its own weights and names.

    Args:
        model: With ``layers`` that have ``self_attn``.
        share: Of the averages, in (0, 1).

    Returns:
        One :class:`CausalAverages` per layer: to be trained and saved beside the model.

    Raises:
        InvalidInput: The inside of this architecture is not known.
    """
    decoder = DecoderLayers(model)
    if decoder.layers is None or not decoder.has_known_layers:
        raise InvalidInput(f"averaging beside attention is not known for {decoder.model.config.model_type}; expected 0")
    averages = nn.ModuleList(CausalAverages(int(decoder.model.config.hidden_size)) for _ in decoder.layers)
    for layer, average in zip(decoder.layers, averages, strict=True):
        layer.self_attn.register_forward_hook(_mix(average, share), with_kwargs=True)
    return averages


def _mix(average: nn.Module, share: float) -> Any:
    def hook(_: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any], outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        attended, *rest = outputs
        return ((1 - share) * attended + share * average(inputs["hidden_states"]), *rest)

    return hook
