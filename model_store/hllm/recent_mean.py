"""A weighted mean of the latest items in the place of a User LLM: what a text head reads a history with."""

import torch
from torch import nn
from torch.nn import functional

NUM_LAGS = 10
_INITIAL_DECAY = 0.7


class RecentMean(nn.Module):
    """The user embedding is a sum of the latest items' directions, each times the learned weight of its lag.

    Not of the paper. It costs minutes to train and holds for an item of the first second as for any other, as long
    as the items' embeddings are made of text alone.

    Args:
        embedding_dim: D.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.lag_weights = nn.Parameter(_INITIAL_DECAY ** torch.arange(NUM_LAGS, dtype=torch.float32))
        self.dropout = nn.Dropout(0.0)

    def forward(
        self,
        item_embeddings: torch.Tensor,
        mask: torch.Tensor,
        timestamps: torch.Tensor | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """Reads B histories, oldest first.

        Args:
            item_embeddings: (B, L, D) raw, right-padded.
            mask: (B, L) bool, True = an item.
            timestamps: Not read.

        Returns:
            (B, L, D): the state at position i predicts item i + 1.
        """
        directions = functional.normalize(self.dropout(item_embeddings), dim=-1) * mask.unsqueeze(-1)
        states = directions * self.lag_weights[0]
        for lag in range(1, min(NUM_LAGS, directions.shape[1])):
            earlier = functional.pad(directions[:, :-lag], (0, 0, lag, 0))
            states = states + earlier * self.lag_weights[lag]
        return states.to(item_embeddings.dtype)
