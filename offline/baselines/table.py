"""The baselines by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from offline.baselines.item_knn import ItemNeighbours
from offline.baselines.networks import BSARec, GRU4Rec, SASRec
from offline.baselines.next_item import NextItemSettings, train_next_item
from offline.baselines.popularity import interaction_counts, popularity_scores
from offline.dataset.splits import Split
from offline.evaluation.catalogue_ranking import ConstantScorer, Scorer


@dataclass(frozen=True)
class Work:
    """What a baseline is trained on, and how.

    Attributes:
        split: Its training part trains, its validation part chooses the epoch.
        num_items: N.
        settings: Of those that are trained by steps.
        device: Where.
    """

    split: Split
    num_items: int
    settings: NextItemSettings
    device: str = "cpu"


@dataclass(frozen=True)
class Trained:
    """A baseline that can rank, and what its training says of itself."""

    scorer: Scorer
    training: dict[str, Any]


def _popularity(work: Work) -> Trained:
    counts = interaction_counts(work.split.train, work.num_items)
    return Trained(ConstantScorer(popularity_scores(counts)), {})


def _item_knn(work: Work) -> Trained:
    return Trained(ItemNeighbours(work.split.train, work.num_items), {})


def _sequence(network: Callable[[int, int, float], nn.Module]) -> Callable[[Work], Trained]:
    def train(work: Work) -> Trained:
        model, training = train_next_item(
            network, work.split.train, work.split.validation, work.num_items, work.settings, device=work.device
        )
        return Trained(model, {**vars(work.settings), **training})

    return train


BASELINES: dict[str, Callable[[Work], Trained]] = {
    "popularity": _popularity,
    "item-knn": _item_knn,
    "gru4rec": _sequence(GRU4Rec),
    "sasrec": _sequence(SASRec),
    "bsarec": _sequence(BSARec),
}
