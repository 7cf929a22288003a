"""The networks of the sequence baselines: item ids to a state at every position.

Notation: B histories, L positions (padding on the left), D width.
"""

import torch
from torch import nn


class GRU4Rec(nn.Module):
    """One gated recurrent layer (arXiv 1511.06939). Args: width: D. dropout: Of its input, in 0..1."""

    is_causal = True

    def __init__(self, width: int, _max_length: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, items: torch.Tensor, _is_item: torch.Tensor) -> torch.Tensor:
        """Item vectors (B, L, D), zeros where there is none, to states (B, L, D)."""
        states: torch.Tensor = self.gru(self.dropout(items))[0]
        return states


class SASRec(nn.Module):
    """Causal self-attention over the history (arXiv 1808.09781).

    Args:
        width: D, a multiple of ``num_heads``.
        max_length: Greatest L.
        dropout: In 0..1.
        num_layers: Attention and feed-forward pairs.
        num_heads: Of each attention.
    """

    is_causal = True

    def __init__(self, width: int, max_length: int, dropout: float, *, num_layers: int = 2, num_heads: int = 2) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_length, width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(self._layer(width, dropout, num_heads) for _ in range(num_layers))

    def _layer(self, width: int, dropout: float, num_heads: int) -> nn.Module:
        return Layer(Attention(width, num_heads, dropout), width, dropout)

    def forward(self, items: torch.Tensor, is_item: torch.Tensor) -> torch.Tensor:
        """Item vectors (B, L, D) and which positions hold one (B, L) bool to states (B, L, D)."""
        length = items.shape[1]
        # counted from the end: the newest item is at the same position in every history
        positions = torch.arange(self.positions.num_embeddings - length, self.positions.num_embeddings)
        states = self.dropout(self.norm(items + self.positions(positions.to(items.device))))
        mask = _causal_mask(is_item)
        for layer in self.layers:
            states = layer(states, mask)
        return states


class BSARec(SASRec):
    """SASRec whose attention shares each layer with a frequency filter (AAAI 2024, arXiv 2312.10325)."""

    # the filter reads the whole history at every position
    is_causal = False

    def _layer(self, width: int, dropout: float, num_heads: int) -> nn.Module:
        mixer = FilteredAttention(Attention(width, num_heads, dropout), FrequencyFilter(width, dropout))
        return Layer(mixer, width, dropout)


class Layer(nn.Module):
    """A mixer of positions (with its own residual), then a feed-forward of width 4 D with residual and norm."""

    def __init__(self, mixer: nn.Module, width: int, dropout: float) -> None:
        super().__init__()
        self.mixer = mixer
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, D) to (B, L, D); mask (B, 1, L, L) bool, True = is read."""
        states = self.mixer(states, mask)
        return self.norm(states + self.feed_forward(states))


class Attention(nn.Module):
    """Self-attention with residual and norm."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projections = nn.Linear(width, 3 * width)
        self.output = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(width)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, D) to (B, L, D); mask (B, 1, L, L) bool, True = is read."""
        heads = self.projections(states).unflatten(-1, (3, self.num_heads, -1))  # (B, L, 3, H, D / H)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.norm(states + self.output(mixed.transpose(1, 2).flatten(2)))


class FrequencyFilter(nn.Module):
    """low-pass + beta ** 2 * high-pass over the positions, with residual and norm; beta is learned per channel.

    Args:
        width: D.
        dropout: In 0..1.
        num_frequencies: How many of the lowest are the low-pass.
    """

    def __init__(self, width: int, dropout: float, *, num_frequencies: int = 3) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.beta = nn.Parameter(torch.randn(width))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, L, D) to (B, L, D)."""
        spectrum = torch.fft.rfft(states, dim=1, norm="ortho")
        is_low = torch.arange(spectrum.shape[1], device=states.device) < self.num_frequencies
        low = torch.fft.irfft(spectrum * is_low[:, None], n=states.shape[1], dim=1, norm="ortho")
        return self.norm(states + self.dropout(low + self.beta**2 * (states - low)))


class FilteredAttention(nn.Module):
    """alpha * filter + (1 - alpha) * attention."""

    def __init__(self, attention: nn.Module, frequency_filter: nn.Module, *, alpha: float = 0.7) -> None:
        super().__init__()
        self.attention = attention
        self.filter = frequency_filter
        self.alpha = alpha

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, D) to (B, L, D); mask (B, 1, L, L) bool, True = is read."""
        mixed: torch.Tensor = self.alpha * self.filter(states) + (1 - self.alpha) * self.attention(states, mask)
        return mixed


def _causal_mask(is_item: torch.Tensor) -> torch.Tensor:
    length = is_item.shape[1]
    causal = torch.ones((length, length), dtype=torch.bool, device=is_item.device).tril()
    # padding reads itself: a row that reads nothing would not be a number
    diagonal = torch.eye(length, dtype=torch.bool, device=is_item.device)
    return ((causal & is_item[:, None, :]) | diagonal)[:, None]
