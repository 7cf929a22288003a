"""Negatives of a batch: drawn once for all its positions, and shared by all processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import distributed

from offline.training.windows import collate_windows


class NegativeSampler:
    """Collates windows and draws the batch's negatives.

    Args:
        candidates: (M,) int64 item_index to draw from, uniformly, without repeats within a batch.
        count: At most M are drawn.
    """

    def __init__(self, candidates: np.ndarray, count: int) -> None:
        self._candidates = torch.from_numpy(candidates)
        self._count = min(count, len(candidates))

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Windows to a batch with ``negatives`` (C,)."""
        # torch's global state: the Trainer keeps it in checkpoints
        drawn = torch.randperm(len(self._candidates))[: self._count]
        return {**collate_windows(examples), "negatives": self._candidates[drawn]}


class _GatherWithGradient(torch.autograd.Function):
    """Concatenates a tensor from all processes (equal shapes); gradients flow back to where parts came from."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(part) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, part.contiguous())
        ctx.rows = len(part)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous()
        distributed.all_reduce(total)
        start = distributed.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def share_negatives(ids: torch.Tensor, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Negatives of all processes: (C x processes,) ids and their embeddings."""
    if not (distributed.is_initialized() and distributed.get_world_size() > 1):
        return ids, embeddings
    all_ids = [torch.empty_like(ids) for _ in range(distributed.get_world_size())]
    distributed.all_gather(all_ids, ids.contiguous())
    gathered: torch.Tensor = _GatherWithGradient.apply(embeddings)
    return torch.cat(all_ids), gathered
