"""What the Trainer trains of a HatLLM: queries that retrieve the next item, titles that are generated, or both."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from model_store.catalogue.item_text import TokenBatch
from model_store.hatllm.network import HatLLM
from offline.indexing.catalogue_tokens import CatalogueTokens
from offline.training.ranking_task import Candidates, RankingTask, encode_catalogue
from offline.training.tasks import Task
from offline.training.windows import ITEMS


class HatWindows:
    """Histories as the model reads them: the tokens of their distinct items, and where each item stands.

    Args:
        model: Whose tokenizer pads.
        tokens: Of the catalogue, in order.
    """

    def __init__(self, model: HatLLM, tokens: CatalogueTokens) -> None:
        self._collate = model.item_tokenizer.collate
        self._tokens = tokens

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64, tokens of each item."""
        return self._tokens.lengths

    def tokens_of(self, histories: torch.Tensor) -> tuple[TokenBatch, torch.Tensor]:
        """Reads histories.

        Args:
            histories: (B, L) int64 item_index, 0 = padding on the right.

        Returns:
            The tokens of the U distinct items, and the places (B, L) of those in the histories, -1 = padding.
        """
        distinct = torch.unique(histories[histories > 0])
        return self.items(distinct), places_among(distinct, histories)

    def items(self, item_indices: torch.Tensor) -> TokenBatch:
        """The tokens of (U,) items, on the device of the indices."""
        rows = item_indices.cpu().numpy() - 1
        return self._collate(self._tokens.of_rows(rows)).to(item_indices.device)


def places_among(distinct: torch.Tensor, histories: torch.Tensor) -> torch.Tensor:
    """(B, L) int64 row in ``distinct`` (ascending) of each item of the histories (0 = padding), -1 in padding."""
    places = torch.searchsorted(distinct, histories)
    return torch.where(histories > 0, places, -1)


class HatRetrieveTask(RankingTask):
    """Every item's last token predicts the embedding of the next item; optionally, titles are generated too.

    The items of a batch and its negatives are encoded with gradient, over the same pass of the IN band as the
    histories.

    Args:
        hat: The model in training.
        windows: Of its catalogue.
        candidates: What may be a negative; a number of them is drawn.
        vector_rows: See :class:`RankingTask`.
        false_negative_cosine: Likewise.
        generate_weight: Of the loss of generation, 0 = none.
    """

    cases_per_batch = 64
    # encoded anyway, and several times as many as those sampled
    shares_window_items = True

    def __init__(
        self,
        hat: HatLLM,
        windows: HatWindows,
        *,
        candidates: Candidates,
        vector_rows: torch.Tensor,
        false_negative_cosine: float,
        generate_weight: float = 0.0,
    ) -> None:
        super().__init__(vector_rows=vector_rows, false_negative_cosine=false_negative_cosine)
        self.hat = hat
        self.windows = windows
        self.candidates = candidates
        self.generate_weight = generate_weight
        self.last_generate_loss: torch.Tensor | None = None

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch of windows.

        Args:
            batch: ``input_ids`` (B, L + 1) int64, right-padded with 0.
        """
        loss = self.retrieve_loss(batch[ITEMS])
        if self.generate_weight:
            generate_loss = self.hat.next_token_loss(*self.windows.tokens_of(batch[ITEMS]))
            self.last_generate_loss = generate_loss.detach()
            loss = loss + self.generate_weight * generate_loss
        return {"loss": loss}

    def retrieve_loss(self, items: torch.Tensor) -> torch.Tensor:
        """InfoNCE of the next items of windows (B, L + 1)."""
        negatives = self.candidates.draw_distinct()
        distinct = torch.unique(torch.cat((items[items > 0], negatives)))
        tokens, places = self.windows.items(distinct), places_among(distinct, inputs_of(items))
        queries, text_part = self.hat.window_queries_and_items(tokens, places)
        embeddings = self.hat.combine(text_part, self.vector_rows[distinct])
        return self.loss_among_encoded(queries, items, negatives, distinct, embeddings)

    def catalogue_embeddings(self) -> torch.Tensor:
        """(N + 1, D) raw; meant for evaluation, without gradient."""

        def encode(item_indices: np.ndarray) -> torch.Tensor:
            indices = torch.from_numpy(item_indices).to(self.vector_rows.device)
            return self.hat.combine(self.hat.encode_item_tokens(self.windows.items(indices)), self.vector_rows[indices])

        dim, device = self.hat.config.embedding_dim, self.vector_rows.device
        return encode_catalogue(encode, self.windows.lengths, embedding_dim=dim, device=device)

    def user_embeddings(self, batch: dict[str, torch.Tensor], table: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """(B, D) raw: the query at each history's last item."""
        history = batch[ITEMS]
        queries = self.hat.window_queries(*self.windows.tokens_of(history))
        last = (history > 0).sum(dim=1) - 1
        return queries[torch.arange(len(history), device=history.device), last]

    def score_scale(self) -> torch.Tensor:
        """() float32: what cosines are multiplied by in the loss."""
        return self.hat.score_scale()

    def training_figures(self) -> dict[str, float]:
        """Of retrieval, and the loss of generation where that is trained too."""
        figures = super().training_figures()
        if self.last_generate_loss is not None:
            figures["generate_loss"] = float(self.last_generate_loss)
        return figures

    def activation_checkpointing_enable(self, **_: Any) -> None:
        """Called by the Trainer when activations are to be computed twice instead of kept."""
        self.hat.enable_gradient_checkpointing()


class HatTowerTask(HatRetrieveTask):
    """Retrieves items whose embeddings an HLLM made, once and for all.

    Args:
        hat: The model in training, without its item tower.
        windows: Of its catalogue.
        table: (N + 1, D) raw, row = item_index.
        options: See :class:`HatRetrieveTask`.
    """

    table: torch.Tensor

    def __init__(self, hat: HatLLM, windows: HatWindows, *, table: torch.Tensor, **options: Any) -> None:
        super().__init__(hat, windows, **options)
        self.register_buffer("table", table, persistent=False)

    def retrieve_loss(self, items: torch.Tensor) -> torch.Tensor:
        """InfoNCE of the next items of windows (B, L + 1), among stored ones."""
        queries = self.hat.window_queries(*self.windows.tokens_of(inputs_of(items)))
        return self.loss_among_stored(queries, items, self.table, self.candidates)

    def catalogue_embeddings(self) -> torch.Tensor:
        """(N + 1, D) raw, as stored."""
        return self.table


class HatGenerateTask(Task):
    """Every title of a window is predicted, token by token, from the items before it.

    Validation is by the loss of the target's title given the history, not by a ranking: that takes a beam search.

    Args:
        hat: The model in training.
        windows: Of its catalogue.
    """

    metrics = ("loss",)
    greater_is_better = False
    cases_per_batch = 32

    def __init__(self, hat: HatLLM, windows: HatWindows) -> None:
        super().__init__()
        self.hat = hat
        self.windows = windows

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch of windows.

        Args:
            batch: ``input_ids`` (B, L + 1) int64, right-padded with 0.
        """
        return {"loss": self.hat.next_token_loss(*self.windows.tokens_of(batch[ITEMS]))}

    def evaluate_cases(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B,) float32, mean cross-entropy of the target's tokens."""
        items = functional.pad(batch[ITEMS], (0, 1))
        lengths = (items > 0).sum(dim=1, keepdim=True)
        items = items.scatter(1, lengths, batch["targets"][:, None])
        return title_losses(self.hat, *self.windows.tokens_of(items))

    def summarise(self, values: np.ndarray) -> dict[str, float]:
        """The mean over all cases."""
        return {"loss": float(np.mean(values))}

    def activation_checkpointing_enable(self, **_: Any) -> None:
        """Called by the Trainer when activations are to be computed twice instead of kept."""
        self.hat.enable_gradient_checkpointing()


def title_losses(hat: HatLLM, tokens: TokenBatch, places: torch.Tensor) -> torch.Tensor:
    """(B,) float32: mean cross-entropy over the tokens of each history's last title, given the items before it.

    Args:
        hat: The model.
        tokens: (U, T) of U distinct items.
        places: (B, L) int64 row of ``tokens`` at each place, -1 = padding on the right; two items at least.
    """
    windows = hat.lay_out(tokens, places)
    input_ids, item_map, is_token = hat.dense_inputs(tokens, windows, with_prompt=True)
    is_target = is_token & (item_map == item_map.amax(dim=1, keepdim=True))
    if not hat.config.target_as_item:
        item_map = item_map.masked_fill(is_target, 0)
    states = hat.dense_states(input_ids, item_map, is_token)
    is_target, following = is_target[:, 1:], input_ids[:, 1:]
    # the state before a token predicts it
    logits = hat.token_logits(states[:, :-1][is_target]).float()
    losses = functional.cross_entropy(logits, following[is_target], reduction="none")
    rows = is_target.nonzero()[:, 0]
    return losses.new_zeros(len(places)).index_add(0, rows, losses) / is_target.sum(dim=1)


def inputs_of(items: torch.Tensor) -> torch.Tensor:
    """(B, L) the items of windows (B, L + 1) that have a next one, 0 = padding."""
    return torch.where(items[:, 1:] > 0, items[:, :-1], 0)
