"""Negatives that each process has drawn and encoded, shared by all of them."""

from typing import Any

import torch
from torch import distributed


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
