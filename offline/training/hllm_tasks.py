"""What the Trainer trains: an HLLM end to end (stage 1), or its User LLM on stored text embeddings (stage 2).

Both take a batch of windows and return the loss; every position of a window predicts its next item in one
pass. Both also rank the whole catalogue for validation, from a table of item embeddings made once per
evaluation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional

from model_store.hllm import HLLM
from model_store.item_text import TokenBatch
from offline.catalogue_tokens import CatalogueTokens
from offline.embed_items import plan_batches
from offline.ranking_metrics import exclude, target_ranks
from offline.training.losses import ContrastiveLoss, catalogue_loss, own_items, sampled_loss
from offline.training.windows import ITEMS, collate_windows

_EVALUATION_TOKENS = 4096
_ENCODED_TOGETHER = 64


class HLLMTask(nn.Module):
    """What both stages share: windows to loss, cases to ranks.

    Args:
        hllm: The model in training; only what is to be trained and saved in checkpoints.
        vector_rows: (N + 1,) int64, row of each item's learned vector, -1 = none; row 0 is padding.
        false_negative_cosine: See :mod:`offline.training.losses`.

    Attributes:
        last: Of the latest training batch, for logging and for the collapse alarm.
    """

    vector_rows: torch.Tensor

    def __init__(self, hllm: HLLM, *, vector_rows: torch.Tensor, false_negative_cosine: float) -> None:
        super().__init__()
        self.hllm = hllm
        self.register_buffer("vector_rows", vector_rows, persistent=False)
        self.false_negative_cosine = false_negative_cosine
        self.last: ContrastiveLoss | None = None
        self._table: torch.Tensor | None = None
        self._unit_items: torch.Tensor | None = None

    def catalogue_embeddings(self) -> torch.Tensor:
        """(N + 1, D) raw embeddings of all items, row = item_index; row 0 means nothing."""
        raise NotImplementedError

    def activation_checkpointing_enable(self, **_: Any) -> None:
        """Called by the Trainer when activations are to be computed twice instead of kept."""
        self.hllm.enable_gradient_checkpointing()

    def rank_targets(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Ranks the whole catalogue for B cases, without the items of their histories.

        In float32, as the model will be served: rounded to bf16, cosines of many items are equal.

        Args:
            batch: ``input_ids`` and ``timestamps`` (B, L), ``seen`` (B, S), ``targets`` (B,); 0 = padding.

        Returns:
            (B,) int64, 1 = best, on the batch's device.
        """
        assert self._table is not None, "rank_targets needs evaluation_table()"
        assert self._unit_items is not None
        history, targets = batch[ITEMS], batch["targets"]
        users = self.hllm.encode_users(functional.embedding(history, self._table), history > 0, batch["timestamps"])
        scores = (functional.normalize(users, dim=-1) @ self._unit_items.T).cpu()
        seen = batch["seen"].cpu()
        rows = torch.arange(len(seen))[:, None].expand_as(seen)
        exclude(scores, rows.reshape(-1).numpy(), seen.reshape(-1).numpy())
        return torch.from_numpy(target_ranks(scores, targets.cpu().numpy())).to(targets.device)

    @contextmanager
    def evaluation_table(self) -> Iterator[None]:
        """Holds the embeddings of the catalogue while cases are ranked."""
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

    def _states(self, inputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """User states (P, D) at the places that have a next item, and which places those are (B, L)."""
        assert self.hllm.user_llm is not None
        items = batch[ITEMS]
        states = self.hllm.user_llm(inputs, items[:, :-1] > 0, batch["timestamps"][:, :-1])
        has_target = items[:, 1:] > 0
        return states[has_target], has_target

    def _result(self, loss: ContrastiveLoss) -> dict[str, torch.Tensor]:
        self.last = ContrastiveLoss(loss.loss.detach(), loss.survivors.detach(), loss.offered)
        return {"loss": loss.loss}


class UserLLMTask(HLLMTask):
    """Stage 2: the User LLM (with item vectors and joint, if they are to learn) on stored text embeddings.

    Args:
        hllm: Without its Item LLM.
        vector_rows: See :class:`HLLMTask`.
        false_negative_cosine: Likewise.
        text_states: (N + 1, H) float32 what the joint is applied to, or (N + 1, D) the text part itself; row
            0 zeros. None for the ID twin.
        joint: To be trained along; None where ``text_states`` is the text part.
        candidates: (M,) int64 item_index ascending: the items that training knows, positive or negative.
        num_negatives: Drawn from the candidates for each batch; None takes all of them.
    """

    candidates: torch.Tensor
    column_of: torch.Tensor
    text_states: torch.Tensor | None

    def __init__(
        self,
        hllm: HLLM,
        *,
        vector_rows: torch.Tensor,
        false_negative_cosine: float,
        text_states: torch.Tensor | None,
        joint: nn.Linear | None,
        candidates: torch.Tensor,
        num_negatives: int | None,
    ) -> None:
        super().__init__(hllm, vector_rows=vector_rows, false_negative_cosine=false_negative_cosine)
        self.joint = joint
        self.num_negatives = num_negatives
        columns = torch.zeros(len(vector_rows), dtype=torch.int64)
        columns[candidates] = torch.arange(len(candidates))
        self.register_buffer("text_states", text_states, persistent=False)
        self.register_buffer("candidates", candidates, persistent=False)
        self.register_buffer("column_of", columns, persistent=False)

    def catalogue_embeddings(self) -> torch.Tensor:
        """(N + 1, D) raw, with gradient."""
        text = self.text_states
        if text is not None and self.joint is not None:
            text = self.joint(text)
        return self.hllm.combine(text, self.vector_rows)

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch of windows.

        Args:
            batch: ``input_ids`` and ``timestamps`` (B, L + 1) int64, right-padded with 0.
        """
        items = batch[ITEMS]
        table = self.catalogue_embeddings()
        queries, has_target = self._states(functional.embedding(items[:, :-1], table), batch)
        targets = items[:, 1:][has_target]
        scale = self.hllm.score_scale()
        if self.num_negatives is None:
            known = table[self.candidates]
            return self._result(
                catalogue_loss(
                    queries,
                    known,
                    self.column_of[targets],
                    scale=scale,
                    false_negative_cosine=self.false_negative_cosine,
                )
            )
        drawn = torch.randint(len(self.candidates), (self.num_negatives,)).to(items.device)
        negatives = self.candidates[drawn]
        is_own = own_items(items, negatives)  # (B, C)
        return self._result(
            sampled_loss(
                queries,
                functional.embedding(targets, table),
                functional.embedding(negatives, table),
                scale=scale,
                is_own=is_own[has_target.nonzero()[:, 0]],
                false_negative_cosine=self.false_negative_cosine,
            )
        )


class EndToEndTask(HLLMTask):
    """Stage 1: Item LLM and User LLM together.

    The items of a batch and its negatives are encoded with gradient. With several processes, each draws and
    encodes its own negatives, and all share them (with gradient), as in the paper.

    Args:
        hllm: Whole.
        vector_rows: See :class:`HLLMTask`.
        false_negative_cosine: Likewise.
        tokens: Of the catalogue, in order.
    """

    def __init__(
        self, hllm: HLLM, *, vector_rows: torch.Tensor, false_negative_cosine: float, tokens: CatalogueTokens
    ) -> None:
        super().__init__(hllm, vector_rows=vector_rows, false_negative_cosine=false_negative_cosine)
        self._tokens = tokens

    def catalogue_embeddings(self) -> torch.Tensor:
        """(N + 1, D) raw; meant for evaluation, without gradient."""
        num_items = len(self._tokens.offsets) - 1
        table = torch.zeros(num_items + 1, self.hllm.config.embedding_dim, device=self.vector_rows.device)
        for rows in plan_batches(self._tokens.lengths, token_budget=_EVALUATION_TOKENS):
            table[rows + 1] = self._encode(rows + 1).float()
        return table

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch of windows.

        Args:
            batch: ``input_ids`` and ``timestamps`` (B, L + 1) int64, right-padded with 0; ``negatives`` (C,)
                int64.
        """
        items, negatives = batch[ITEMS], batch["negatives"]
        distinct = torch.unique(torch.cat((items[items > 0], negatives)))
        embeddings = self._encode_with_gradient(distinct)
        # padding points at some item; the mask keeps it out of everything
        places = torch.searchsorted(distinct, items.clamp(min=int(distinct[0])))
        queries, has_target = self._states(functional.embedding(places[:, :-1], embeddings), batch)
        shared_ids, shared = _share(
            negatives, functional.embedding(torch.searchsorted(distinct, negatives), embeddings)
        )
        return self._result(
            sampled_loss(
                queries,
                functional.embedding(places[:, 1:][has_target], embeddings),
                shared,
                scale=self.hllm.score_scale(),
                is_own=own_items(items, shared_ids)[has_target.nonzero()[:, 0]],
                false_negative_cosine=self.false_negative_cosine,
            )
        )

    def _encode_with_gradient(self, item_indices: torch.Tensor) -> torch.Tensor:
        """Embeddings of (U,) distinct items, in batches of about equal length, back in the given order."""
        indices = item_indices.cpu().numpy()
        order = np.argsort(self._tokens.lengths[indices - 1], kind="stable")
        parts = [
            self._encode(indices[order[start : start + _ENCODED_TOGETHER]])
            for start in range(0, len(order), _ENCODED_TOGETHER)
        ]
        return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(item_indices.device)]

    def _encode(self, item_indices: np.ndarray) -> torch.Tensor:
        assert self.hllm.item_tokenizer is not None
        tokens: TokenBatch = self.hllm.item_tokenizer.collate(self._tokens.of_rows(item_indices - 1))
        text = self.hllm.encode_item_tokens(tokens.to(self.vector_rows.device))
        return self.hllm.combine(text, self.vector_rows[torch.from_numpy(item_indices)])


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


def _share(ids: torch.Tensor, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Negatives of all processes: (C x processes,) ids and their embeddings."""
    if not (distributed.is_initialized() and distributed.get_world_size() > 1):
        return ids, embeddings
    all_ids = [torch.empty_like(ids) for _ in range(distributed.get_world_size())]
    distributed.all_gather(all_ids, ids.contiguous())
    gathered: torch.Tensor = _GatherWithGradient.apply(embeddings)
    return torch.cat(all_ids), gathered
