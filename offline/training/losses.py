"""InfoNCE on cosines, with false negatives taken out and the remaining ones counted.

HLLM (arXiv 2409.12740), equation 1 and its released code: cosine times a learned temperature, cross-entropy
of the next item against shared negatives; a negative whose cosine with the target exceeds 0.99 is no
negative. Ours: negatives are also removed by id (duplicates that are only *nearly* equal would otherwise push
an item from itself), and the loss may run over the whole catalogue. When embeddings collapse, every cosine
exceeds the threshold, no negative survives and the loss falls to zero while nothing is learned; so the number
of survivors is part of the result.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from model_store.errors import HatstandError

FALSE_NEGATIVE_COSINE = 0.99
_BF16_MARGIN = 0.02


class TrainingCollapsed(HatstandError):
    """Hardly a negative survives the filter: the item embeddings have become one."""


@dataclass(frozen=True)
class ContrastiveLoss:
    """A loss and what it was taken over.

    Attributes:
        loss: () float32, mean over queries.
        survivors: () float32, mean number of negatives per query that the filters let through.
        offered: Negatives per query before the filters.
    """

    loss: torch.Tensor
    survivors: torch.Tensor
    offered: int

    @property
    def survival(self) -> torch.Tensor:
        """() float32 in [0, 1], the share of negatives that survived."""
        return self.survivors / max(1, self.offered)


def catalogue_loss(
    queries: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    *,
    scale: torch.Tensor,
    false_negative_cosine: float = FALSE_NEGATIVE_COSINE,
) -> ContrastiveLoss:
    """InfoNCE of which every other item of the catalogue is a negative.

    Args:
        queries: (P, D) raw user embeddings, one per position.
        items: (N, D) raw item embeddings.
        targets: (P,) int64, row of ``items`` that follows the position.
        scale: () what cosines are multiplied by.
        false_negative_cosine: Items closer than this to the target are no negatives; 1 or more lets all be.
    """
    unit_items = functional.normalize(items, dim=-1)
    logits = (functional.normalize(queries, dim=-1) * scale) @ unit_items.T  # (P, N)
    offered = items.shape[0] - 1
    if false_negative_cosine >= 1:
        return ContrastiveLoss(
            functional.cross_entropy(logits.float(), targets), logits.new_tensor(float(offered)), offered
        )
    with torch.no_grad():
        # positions share targets: compare each target once, and touch the few hits only
        distinct, inverse = torch.unique(targets, return_inverse=True)
        similar = _similar(unit_items[distinct], unit_items, threshold=false_negative_cosine)  # (U, N)
        similar[torch.arange(len(distinct), device=targets.device), distinct] = False
        num_similar = similar.sum(dim=1)[inverse].float().mean()
        hits = similar.any(dim=1)[inverse].nonzero()[:, 0]
    if len(hits):
        masked = logits[hits].masked_fill(similar[inverse[hits]], _lowest(logits))
        logits = logits.index_copy(0, hits, masked)
    loss = functional.cross_entropy(logits.float(), targets)
    return ContrastiveLoss(loss, offered - num_similar, offered)


def sampled_loss(
    queries: torch.Tensor,
    targets: torch.Tensor,
    negatives: torch.Tensor,
    *,
    scale: torch.Tensor,
    is_own: torch.Tensor,
    false_negative_cosine: float = FALSE_NEGATIVE_COSINE,
) -> ContrastiveLoss:
    """InfoNCE against negatives that all positions share.

    Args:
        queries: (P, D) raw user embeddings, one per position.
        targets: (P, D) raw embedding of the item that follows.
        negatives: (C, D) raw embeddings.
        scale: () what cosines are multiplied by.
        is_own: (P, C) bool, True where the negative is, by id, an item of the same history (the target
            included).
        false_negative_cosine: Negatives closer than this to the target are dropped; 1 or more drops none.
    """
    unit_queries = functional.normalize(queries, dim=-1) * scale
    unit_targets = functional.normalize(targets, dim=-1)
    unit_negatives = functional.normalize(negatives, dim=-1)
    positive = (unit_queries * unit_targets).sum(dim=-1, keepdim=True)  # (P, 1)
    negative = unit_queries @ unit_negatives.T  # (P, C)
    with torch.no_grad():
        dropped = is_own
        if false_negative_cosine < 1:
            dropped = dropped | _similar(unit_targets, unit_negatives, threshold=false_negative_cosine)
    logits = torch.cat((positive, negative.masked_fill(dropped, _lowest(negative))), dim=1).float()
    loss = functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
    survivors = (~dropped).sum(dim=1).float().mean()
    return ContrastiveLoss(loss, survivors, negatives.shape[0])


def own_items(histories: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Which negatives are items of each history.

    Args:
        histories: (B, L) int64 item_index, 0 = padding.
        negatives: (C,) int64 item_index, in any order, repeats allowed.

    Returns:
        (B, C) bool.
    """
    distinct, inverse = torch.unique(negatives, return_inverse=True)
    places = torch.searchsorted(distinct, histories).clamp(max=len(distinct) - 1)  # (B, L)
    is_hit = (distinct[places] == histories) & (histories > 0)
    counts = torch.zeros(len(histories), len(distinct), dtype=torch.int64, device=histories.device)
    counts.scatter_add_(1, places, is_hit.to(torch.int64))
    return (counts > 0)[:, inverse]


def _similar(rows: torch.Tensor, columns: torch.Tensor, *, threshold: float) -> torch.Tensor:
    """(R, C) bool: whose cosine exceeds the threshold; arguments are unit-norm.

    Under autocast the product is rounded to 8 bits, too coarse to tell 0.99 from 1: it only proposes pairs,
    and those are computed again in full, unless they are so many that a full product is cheaper.
    """
    proposed = rows @ columns.T > threshold - _BF16_MARGIN
    pairs = proposed.nonzero()
    if len(pairs) > proposed.numel() // 64:
        with torch.autocast(rows.device.type, enabled=False):
            return rows.float() @ columns.float().T > threshold
    first, second = pairs.unbind(dim=1)
    exact = (rows[first].float() * columns[second].float()).sum(dim=1) > threshold
    return proposed.index_put((first, second), exact)


def _lowest(logits: torch.Tensor) -> float:
    return float(torch.finfo(logits.dtype).min)
