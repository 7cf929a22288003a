"""Trains a sequence baseline: full softmax over the catalogue, the epoch chosen by validation NDCG@10."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from model_store.people.histories import History
from offline.dataset.dataset import UserSequences
from offline.dataset.splits import EvaluationCases
from offline.evaluation.catalogue_ranking import rank_cases
from offline.evaluation.ranking_metrics import rank_metrics
from offline.job import job

LOGGER = logging.getLogger(__name__)
CHOSEN_BY = "ndcg@10"


@dataclass(frozen=True)
class NextItemSettings:
    """How a sequence baseline is trained.

    Attributes:
        width: D, of item vectors and states.
        dropout: In 0..1.
        max_length: Items of a history that are read, the newest.
        batch_size: Windows in one step.
        learning_rate: Of AdamW.
        epochs: At most.
        patience: Epochs without a better validation NDCG@10 until training stops.
        max_minutes: Training stops after the epoch in which this time is over.
        seed: Of weights, order and dropout.
    """

    width: int = 64
    dropout: float = 0.5
    max_length: int = 50
    batch_size: int = 256
    learning_rate: float = 1e-3
    epochs: int = 200
    patience: int = 10
    max_minutes: float = 60.0
    seed: int = 0


class NextItemModel(nn.Module):
    """Item vectors and a network over them; an item's score is its vector's inner product with the last state.

    Args:
        network: Makes the network of (width, max_length, dropout).
        num_items: N.
        settings: Its sizes.
    """

    def __init__(self, network: Callable[[int, int, float], nn.Module], num_items: int, settings: NextItemSettings):
        super().__init__()
        self.items = nn.Embedding(num_items + 1, settings.width, padding_idx=0)
        nn.init.normal_(self.items.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[0] = 0.0
        self.network = network(settings.width, settings.max_length, settings.dropout)
        self.max_length = settings.max_length

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Item indices (B, L) int64, 0 on the left = padding, to states (B, L, D)."""
        states: torch.Tensor = self.network(self.items(windows), windows > 0)
        return states

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., N), column = item_index - 1."""
        return states @ self.items.weight[1:].T

    @torch.no_grad()
    def score(self, histories: list[History]) -> torch.Tensor:
        """Scores (B, N) float32 on the CPU."""
        self.eval()
        windows = _padded([history.item_indices for history in histories], self.max_length)
        return self.scores(self(windows.to(self.items.weight.device))[:, -1]).float().cpu()


def train_next_item(
    network: Callable[[int, int, float], nn.Module],
    train: UserSequences,
    validation: EvaluationCases,
    num_items: int,
    settings: NextItemSettings,
    *,
    device: str = "cpu",
) -> tuple[NextItemModel, dict[str, float]]:
    """Trains a network and takes the weights of its best epoch.

    Args:
        network: Makes the network of (width, max_length, dropout); ``is_causal`` says whether a position reads
            only what is before it, so that every position of a window can be trained in one pass.
        train: Training interactions.
        validation: Cases that choose the epoch; the history's items are not ranked.
        num_items: N.
        settings: How to train.
        device: Where.

    Returns:
        The model, and ``epochs``, ``best_epoch`` (from 1) and its ``ndcg@10`` on validation.
    """
    torch.manual_seed(settings.seed)
    model = NextItemModel(network, num_items, settings).to(device)
    windows, targets = _examples(train, settings.max_length, every_position=bool(model.network.is_causal))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    started, best, best_epoch, epoch = time.monotonic(), -1.0, 0, 0
    weights: dict[str, torch.Tensor] = {}
    while epoch < settings.epochs and epoch - best_epoch < settings.patience:
        epoch += 1
        _train_epoch(model, optimizer, windows, targets, settings.batch_size, epoch)
        ranking = rank_cases(model, validation, num_items=num_items, k=1, description=f"validation {epoch}")
        found = rank_metrics(ranking.ranks)[CHOSEN_BY]
        LOGGER.info("epoch %d: validation %s %.4f", epoch, CHOSEN_BY, found)
        if found > best:
            best, best_epoch = found, epoch
            weights = {name: value.clone() for name, value in model.state_dict().items()}
        if time.monotonic() - started > 60 * settings.max_minutes:
            break
    model.load_state_dict(weights)
    return model, {"epochs": epoch, "best_epoch": best_epoch, CHOSEN_BY: best}


def _train_epoch(
    model: NextItemModel,
    optimizer: torch.optim.Optimizer,
    windows: torch.Tensor,
    targets: torch.Tensor,
    batch_size: int,
    epoch: int,
) -> None:
    model.train()
    device = model.items.weight.device
    batches = torch.randperm(len(windows)).split(batch_size)
    for batch in job.progress(batches, description=f"epoch {epoch}", unit="step"):
        wanted = targets[batch].to(device)
        states = model(windows[batch].to(device))
        is_target = wanted > 0
        loss = nn.functional.cross_entropy(model.scores(states[is_target]), wanted[is_target] - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _examples(train: UserSequences, max_length: int, *, every_position: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows and targets (W, L) int64, 0 = none: one of each user, or one of each event at the last position."""
    windows, targets = [], []
    for start, end in zip(train.offsets[:-1].tolist(), train.offsets[1:].tolist(), strict=True):
        items = np.asarray(train.item_indices[start:end], dtype=np.int64)
        for stop in range(len(items) - 1, 0, -max_length if every_position else -1):
            begin = max(0, stop - max_length)
            windows.append(items[begin:stop])
            targets.append(items[begin + 1 : stop + 1] if every_position else items[stop : stop + 1])
    return _padded(windows, max_length), _padded(targets, max_length)


def _padded(rows: list[np.ndarray], length: int) -> torch.Tensor:
    padded = np.zeros((len(rows), length), dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        values = values[-length:]
        row[length - len(values) :] = values
    return torch.from_numpy(padded)
