"""Where the tokens of histories lie, when each distinct item's tokens are held once."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Windows:
    """Where the tokens of B histories lie, laid out from those of U distinct items.

    Attributes:
        sources: (B, S) int64, row of the flattened (U * T) item tokens that is at each place; any row in padding.
        item_map: (B, S) int64, from 1 on the ordinal of the item in its history, 0 = padding (on the right).
        last: (B, L) int64, place of each item's last token; any place in padding.
        is_item: (B, L) bool.
    """

    sources: torch.Tensor
    item_map: torch.Tensor
    last: torch.Tensor
    is_item: torch.Tensor

    @property
    def is_token(self) -> torch.Tensor:
        """(B, S) bool, False = padding."""
        return self.item_map > 0


def lay_out(lengths: torch.Tensor, places: torch.Tensor, *, width: int) -> Windows:
    """Lays out histories token by token.

    Args:
        lengths: (U,) int64, tokens of each distinct item, at least 1.
        places: (B, L) int64, which of the U items is at each place of a history, oldest first, -1 = padding on
            the right.
        width: T, tokens per row of the items.
    """
    is_item = places >= 0
    rows = places.clamp(min=0)
    counts = lengths[rows] * is_item  # (B, L)
    ends = counts.cumsum(dim=1)
    num_tokens = int(ends[:, -1].max()) if places.numel() else 0
    token = torch.arange(num_tokens, device=places.device).expand(len(places), -1).contiguous()
    slot = torch.searchsorted(ends, token, right=True)  # (B, S), L in padding
    is_token = slot < places.shape[1]
    slot = slot.clamp(max=places.shape[1] - 1)
    offset = token - (ends - counts).gather(1, slot)
    sources = (rows.gather(1, slot) * width + offset) * is_token
    return Windows(sources=sources, item_map=(slot + 1) * is_token, last=(ends - 1).clamp(min=0), is_item=is_item)
