"""What the Trainer trains: an HLLM end to end (stage 1), or its User LLM on stored text embeddings (stage 2).

Both take a batch of windows and return the loss; every position of a window predicts its next item in one
pass.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from model_store.catalogue.item_text import TokenBatch
from model_store.hllm.network import HLLM
from offline.indexing.catalogue_tokens import CatalogueTokens
from offline.training.ranking_task import Candidates, RankingTask, encode_catalogue
from offline.training.windows import ITEMS

_ENCODED_TOGETHER = 64


class HLLMTask(RankingTask):
    """What both stages share.

    Args:
        hllm: The model in training; only what is to be trained and saved in checkpoints.
        vector_rows: See :class:`RankingTask`.
        false_negative_cosine: Likewise.
    """

    def __init__(self, hllm: HLLM, *, vector_rows: torch.Tensor, false_negative_cosine: float) -> None:
        super().__init__(vector_rows=vector_rows, false_negative_cosine=false_negative_cosine)
        self.hllm = hllm

    def activation_checkpointing_enable(self, **_: Any) -> None:
        """Called by the Trainer when activations are to be computed twice instead of kept."""
        self.hllm.enable_gradient_checkpointing()

    def user_embeddings(self, batch: dict[str, torch.Tensor], table: torch.Tensor) -> torch.Tensor:
        """(B, D) raw: the User LLM's last states over embeddings of the table."""
        history = batch[ITEMS]
        return self.hllm.encode_users(functional.embedding(history, table), history > 0, batch["timestamps"])

    def score_scale(self) -> torch.Tensor:
        """() float32: what cosines are multiplied by in the loss."""
        return self.hllm.score_scale()

    def states(self, inputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """User states (B, L, D) of windows, at all positions but the last."""
        assert self.hllm.user_llm is not None
        states: torch.Tensor = self.hllm.user_llm(inputs, batch[ITEMS][:, :-1] > 0, batch["timestamps"][:, :-1])
        return states


class UserLLMTask(HLLMTask):
    """Stage 2: the User LLM (with item vectors and joint, if they are to learn) on stored text embeddings.

    Args:
        hllm: Without its Item LLM.
        vector_rows: See :class:`HLLMTask`.
        false_negative_cosine: Likewise.
        text_states: (N + 1, H) float32 what the joint is applied to, or (N + 1, D) the text part itself; row
            0 zeros. None for the ID twin.
        joint: To be trained along; None where ``text_states`` is the text part.
        candidates: What may be a negative.
        item_vector_dropout: Share of the items that have no vector in a training step, drawn for each step.
    """

    text_states: torch.Tensor | None

    def __init__(
        self,
        hllm: HLLM,
        *,
        vector_rows: torch.Tensor,
        false_negative_cosine: float,
        text_states: torch.Tensor | None,
        joint: nn.Linear | None,
        candidates: Candidates,
        item_vector_dropout: float = 0.0,
    ) -> None:
        super().__init__(hllm, vector_rows=vector_rows, false_negative_cosine=false_negative_cosine)
        self.item_vector_dropout = item_vector_dropout
        self.joint = joint
        self.candidates = candidates
        self.register_buffer("text_states", text_states, persistent=False)

    def catalogue_embeddings(self) -> torch.Tensor:
        """(N + 1, D) raw, with gradient."""
        text = self.text_states
        if text is not None and self.joint is not None:
            text = self.joint(text)
        rows = self.vector_rows
        if self.training and self.item_vector_dropout:
            rows = rows.masked_fill(torch.rand(rows.shape, device=rows.device) < self.item_vector_dropout, -1)
        return self.hllm.combine(text, rows)

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch of windows.

        Args:
            batch: ``input_ids`` and ``timestamps`` (B, L + 1) int64, right-padded with 0.
        """
        table = self.catalogue_embeddings()
        states = self.states(functional.embedding(batch[ITEMS][:, :-1], table), batch)
        return {"loss": self.loss_among_stored(states, batch[ITEMS], table, self.candidates)}


class EndToEndTask(HLLMTask):
    """Stage 1: Item LLM and User LLM together.

    The items of a batch and its negatives are encoded with gradient.

    Args:
        hllm: Whole.
        vector_rows: See :class:`HLLMTask`.
        false_negative_cosine: Likewise.
        tokens: Of the catalogue, in order.
        candidates: What may be a negative; a number of them is drawn.
    """

    def __init__(
        self,
        hllm: HLLM,
        *,
        vector_rows: torch.Tensor,
        false_negative_cosine: float,
        tokens: CatalogueTokens,
        candidates: Candidates,
    ) -> None:
        super().__init__(hllm, vector_rows=vector_rows, false_negative_cosine=false_negative_cosine)
        self._tokens = tokens
        self.candidates = candidates

    def catalogue_embeddings(self) -> torch.Tensor:
        """(N + 1, D) raw; meant for evaluation, without gradient."""
        return encode_catalogue(
            self._encode,
            self._tokens.lengths,
            embedding_dim=self.hllm.config.embedding_dim,
            device=self.vector_rows.device,
        )

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch of windows.

        Args:
            batch: ``input_ids`` and ``timestamps`` (B, L + 1) int64, right-padded with 0.
        """
        # drawn here and not with the batch, which the loader makes ahead of what a checkpoint knows
        items, negatives = batch[ITEMS], self.candidates.draw_distinct()
        distinct = torch.unique(torch.cat((items[items > 0], negatives)))
        embeddings = self._encode_with_gradient(distinct)
        # padding points at some item; the mask keeps it out of everything
        places = torch.searchsorted(distinct, items.clamp(min=int(distinct[0])))
        states = self.states(functional.embedding(places[:, :-1], embeddings), batch)
        return {"loss": self.loss_among_encoded(states, items, negatives, distinct, embeddings)}

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
