"""Tasks that recommend by cosine: their losses against negatives, and the ranking of the catalogue for validation."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from torch.nn import functional

from offline.evaluation.ranking_metrics import exclude, ndcg_at_k, recall_at_k, target_ranks
from offline.indexing.embed_items import plan_batches
from offline.training.losses import ContrastiveLoss, catalogue_loss, own_items, sampled_loss
from offline.training.negatives import share_negatives
from offline.training.tasks import Task

_EVALUATION_TOKENS = 4096


class RankingTask(Task):
    """Ranks the whole catalogue by cosine, with a table of item embeddings that is made once per evaluation.

    Args:
        vector_rows: (N + 1,) int64, row of each item's learned vector, -1 = none; row 0 is padding.
        false_negative_cosine: See :mod:`offline.training.losses`.

    Attributes:
        shares_window_items: Whether items that were encoded for their own windows are negatives of the others.
        last: Of the latest training batch.
    """

    metrics = ("ndcg@10", "recall@10")
    greater_is_better = True
    shares_window_items = False
    vector_rows: torch.Tensor

    def __init__(self, *, vector_rows: torch.Tensor, false_negative_cosine: float) -> None:
        super().__init__()
        self.register_buffer("vector_rows", vector_rows, persistent=False)
        self.false_negative_cosine = false_negative_cosine
        self.last: ContrastiveLoss | None = None
        self._table: torch.Tensor | None = None
        self._unit_items: torch.Tensor | None = None

    @abstractmethod
    def catalogue_embeddings(self) -> torch.Tensor:
        """(N + 1, D) raw embeddings of all items, row = item_index; row 0 means nothing."""

    @abstractmethod
    def user_embeddings(self, batch: dict[str, torch.Tensor], table: torch.Tensor) -> torch.Tensor:
        """(B, D) raw, of validation cases.

        Args:
            batch: See :meth:`Task.evaluate_cases`.
            table: (N + 1, D) what :meth:`catalogue_embeddings` returned, float32.
        """

    @abstractmethod
    def score_scale(self) -> torch.Tensor:
        """() float32: what cosines are multiplied by in the loss."""

    def evaluate_cases(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Ranks the whole catalogue for B cases, without the items of their histories.

        In float32, as the model will be served: rounded to bf16, cosines of many items are equal.

        Returns:
            (B,) int64, 1 = best.
        """
        assert self._table is not None, "evaluate_cases needs evaluation()"
        assert self._unit_items is not None
        users = self.user_embeddings(batch, self._table)
        scores = (functional.normalize(users, dim=-1) @ self._unit_items.T).cpu()
        seen, targets = batch["seen"].cpu(), batch["targets"]
        rows = torch.arange(len(seen))[:, None].expand_as(seen)
        exclude(scores, rows.reshape(-1).numpy(), seen.reshape(-1).numpy())
        return torch.from_numpy(target_ranks(scores, targets.cpu().numpy())).to(targets.device)

    def summarise(self, values: np.ndarray) -> dict[str, float]:
        """NDCG and recall from ranks."""
        return {"ndcg@10": ndcg_at_k(values, 10), "recall@10": recall_at_k(values, 10)}

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Holds the embeddings of the catalogue."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                self._table = self.catalogue_embeddings().float()
                self._unit_items = functional.normalize(self._table[1:], dim=-1)
            yield
        finally:
            self._table = self._unit_items = None
            self.train(was_training)

    def training_figures(self) -> dict[str, float]:
        """What tells a healthy run from a collapsing one."""
        if self.last is None:
            return {}
        return {
            "negatives_surviving": float(self.last.survivors),
            "negatives_survival": float(self.last.survival),
            "scale": float(self.score_scale().detach()),
        }

    def loss_among_encoded(
        self,
        states: torch.Tensor,
        items: torch.Tensor,
        negatives: torch.Tensor,
        distinct: torch.Tensor,
        embeddings: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of a batch whose items and negatives were encoded with gradient.

        With several processes, each draws and encodes its own negatives, and all share them (with gradient), as
        in HLLM's paper.

        Args:
            states: (B, L, D) raw predictions at all positions of the windows but the last.
            items: (B, L + 1) item_index of the windows, 0 = padding.
            negatives: (C,) item_index, those that were sampled.
            distinct: (U,) item_index ascending, all items of the batch and its negatives.
            embeddings: (U, D) raw, of those.
        """
        has_target = items[:, 1:] > 0
        targets = torch.searchsorted(distinct, items[:, 1:][has_target])
        shared_ids, shared = share_negatives(
            negatives, functional.embedding(torch.searchsorted(distinct, negatives), embeddings)
        )
        if self.shares_window_items:
            others = distinct[~torch.isin(distinct, shared_ids)]
            shared = torch.cat((shared, functional.embedding(torch.searchsorted(distinct, others), embeddings)))
            shared_ids = torch.cat((shared_ids, others))
        loss = sampled_loss(
            states[has_target],
            functional.embedding(targets, embeddings),
            shared,
            scale=self.score_scale(),
            is_own=own_items(items, shared_ids)[has_target.nonzero()[:, 0]],
            false_negative_cosine=self.false_negative_cosine,
        )
        return self._kept(loss)

    def loss_among_stored(
        self, states: torch.Tensor, items: torch.Tensor, table: torch.Tensor, candidates: "Candidates"
    ) -> torch.Tensor:
        """The loss of a batch of windows against stored embeddings.

        Args:
            states: (B, L, D) raw predictions at all positions of the windows but the last.
            items: (B, L + 1) item_index of the windows, 0 = padding.
            table: (N + 1, D) raw, row = item_index.
            candidates: What may be a negative.
        """
        has_target = items[:, 1:] > 0
        targets, queries = items[:, 1:][has_target], states[has_target]
        options: dict[str, Any] = {
            "scale": self.score_scale(),
            "false_negative_cosine": self.false_negative_cosine,
        }
        negatives = candidates.draw()
        if negatives is None:
            columns = candidates.column_of[targets]
            return self._kept(catalogue_loss(queries, table[candidates.item_indices], columns, **options))
        is_own = own_items(items, negatives)[has_target.nonzero()[:, 0]]
        drawn, following = functional.embedding(negatives, table), functional.embedding(targets, table)
        return self._kept(sampled_loss(queries, following, drawn, is_own=is_own, **options))

    def _kept(self, loss: ContrastiveLoss) -> torch.Tensor:
        self.last = ContrastiveLoss(loss.loss.detach(), loss.survivors.detach(), loss.offered)
        return loss.loss


class Candidates(nn.Module):
    """The items that training knows, positive or negative.

    Args:
        item_indices: (M,) int64 item_index ascending.
        num_items: N.
        num_negatives: Drawn for each batch; None takes all of them.
    """

    item_indices: torch.Tensor
    column_of: torch.Tensor

    def __init__(self, item_indices: torch.Tensor, *, num_items: int, num_negatives: int | None) -> None:
        super().__init__()
        columns = torch.zeros(num_items + 1, dtype=torch.int64)
        columns[item_indices] = torch.arange(len(item_indices))
        self.register_buffer("item_indices", item_indices, persistent=False)
        self.register_buffer("column_of", columns, persistent=False)
        self.num_negatives = num_negatives

    def draw(self) -> torch.Tensor | None:
        """(C,) item_index of a batch's negatives, with repeats; None: all."""
        if self.num_negatives is None:
            return None
        drawn = torch.randint(len(self.item_indices), (self.num_negatives,))
        return self.item_indices[drawn.to(self.item_indices.device)]

    def draw_distinct(self) -> torch.Tensor:
        """(C,) item_index of a batch's negatives, at most M, without repeats; other ones in each process."""
        # from torch's global state, which is the same in all processes: the Trainer keeps it in checkpoints
        seed = int(torch.randint(2**31, ())) + PartialState().process_index
        order = torch.randperm(len(self.item_indices), generator=torch.Generator().manual_seed(seed))
        return self.item_indices[order[: self.num_negatives].to(self.item_indices.device)]


def encode_catalogue(
    encode: Callable[[np.ndarray], torch.Tensor], lengths: np.ndarray, *, embedding_dim: int, device: torch.device
) -> torch.Tensor:
    """(N + 1, D) float32 embeddings of all items, row = item_index, in batches of about equal length.

    Args:
        encode: (n,) item_index to (n, D).
        lengths: (N,) tokens of each item.
        embedding_dim: D.
        device: Of the table.
    """
    table = torch.zeros(len(lengths) + 1, embedding_dim, device=device)
    for rows in plan_batches(lengths, token_budget=_EVALUATION_TOKENS):
        table[rows + 1] = encode(rows + 1).float()
    return table
