"""An attention implementation that takes one mask per layer, for any transformers decoder, without state.

``load_backbone(..., attention=LAYERED)`` gives a model whose ``forward`` accepts ``layer_masks=[...]``, one
boolean (B, 1, T, T) mask per layer. The argument travels down to the attention function, which picks by
``layer_idx``; nothing is kept on the module, so that threads, LoRA, checkpointing and several processes do
not disturb each other. ``attend=...`` instead hands queries, keys and values to a function of the caller's:
the exact fast path keeps its keys and values there.

Trap: the library's own attention functions silently ignore arguments that they do not know, so a model loaded
with another implementation would run without any mask; :func:`check_layered` refuses it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from model_store.errors import ArtifactIncompatible

LAYERED = "layered_sdpa"
_BASE = "sdpa"


class Attend(Protocol):
    """Attention as the caller wants it."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float
    ) -> torch.Tensor:
        """(B, H, T, d) queries after their rotation, (B, H_kv, T, d) keys and values -> (B, T, H, d)."""
        ...


def register_layered_attention() -> None:
    """Makes the implementation known to transformers; more than once does no harm."""
    AttentionInterface.register(LAYERED, _layered)
    # without layer_masks the mask must still be what the base function wants
    AttentionMaskInterface.register(LAYERED, ALL_MASK_ATTENTION_FUNCTIONS[_BASE])


def check_layered(model: Any) -> None:
    """Refuses a model whose attention would ignore the masks.

    Raises:
        ArtifactIncompatible: It was loaded with another attention implementation.
    """
    implementation = getattr(model.config, "_attn_implementation", None)
    if implementation != LAYERED:
        raise ArtifactIncompatible(
            f"{model.config.model_type} runs with attention implementation {implementation!r}, which ignores "
            f"HatLLM's masks without a word; expected {LAYERED!r}"
        )


def _layered(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layer_masks: Sequence[torch.Tensor] | None = None,
    attend: Attend | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if attend is not None:
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        return attend(module.layer_idx, query, key, value, scaling=scaling), None
    if layer_masks is not None:
        attention_mask = layer_masks[module.layer_idx]
    base: Callable[..., tuple[torch.Tensor, torch.Tensor | None]] = ALL_ATTENTION_FUNCTIONS[_BASE]
    return base(module, query, key, value, attention_mask, **options)
