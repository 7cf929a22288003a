"""What a training run reads: the catalogue, its training windows and its validation cases."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from model_store.catalogue.catalogue import Catalogue
from model_store.errors import InvalidInput
from offline.dataset.dataset import INTERACTIONS_FILE, ITEMS_FILE, Dataset
from offline.dataset.splits import SplitName, divide, is_held_out, without_items
from offline.dataset.text_fields import reading_sentence, same_text_sentence
from offline.training.run_settings import RunSettings
from offline.training.windows import RankingCases, TrainingWindows

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """What a run trains on.

    Attributes:
        catalogue: All N items, those held out included.
        windows: Training histories.
        validation: Cases whose target is not held out.
        known: (M,) int64 item_index ascending, of items with training events.
    """

    catalogue: Catalogue
    windows: TrainingWindows
    validation: RankingCases
    known: np.ndarray

    @property
    def known_ids(self) -> list[str]:
        """The (M,) ids of the known items."""
        return [self.catalogue.item_ids[index - 1] for index in self.known]


def read_corpus(dataset: Dataset, settings: RunSettings, *, window: Callable[[int], int] | None = None) -> Corpus:
    """Splits a dataset as the settings say.

    Args:
        dataset: What to read.
        settings: Of the run.
        window: How many of its latest events the model reads of a history of so many; None: at most L.

    Raises:
        InvalidInput: Nothing is left to train on or to validate by, or times are ranks where seconds are needed.
    """
    catalogue = dataset.catalogue()
    split = divide(dataset, SplitName(settings.split), name=str(settings.data))
    train = split.train
    is_out = np.zeros(len(catalogue), dtype=bool)
    if settings.hold_out_items:
        is_out = is_held_out(catalogue.item_ids, settings.hold_out_items, settings.seed)
        train = without_items(train, is_out)
    windows = TrainingWindows(train, max_history_length=settings.history_length)
    validation = RankingCases(
        split.validation,
        window=window or (lambda num_events: min(num_events, settings.history_length)),
        max_cases=settings.validation_cases,
        allowed_targets=np.concatenate(([False], ~is_out)),
    )
    if len(validation) == 0:
        raise InvalidInput(f"{settings.data}: no validation cases are left, all targets are held out")
    known = np.unique(np.asarray(train.item_indices)).astype(np.int64)
    LOGGER.info(
        "%d items, %d of them in training; %d windows, %d validation cases",
        len(catalogue),
        len(known),
        len(windows),
        len(validation),
    )
    return Corpus(catalogue, windows, validation, known)


def say_what_is_read(catalogue: Catalogue, text_fields: Sequence[str]) -> None:
    """Logs which fields of an item a model reads, and warns where they are the same for many items."""
    LOGGER.info("%s", reading_sentence(catalogue, text_fields))
    same = same_text_sentence(catalogue, text_fields)
    if same:
        LOGGER.warning("%s", same)


def run_key(dataset: Dataset, settings: RunSettings) -> str:
    """Names a run by what it depends on, so that only the same run is gone on with."""
    digest = hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode())
    for name in (ITEMS_FILE, INTERACTIONS_FILE):
        with (dataset.directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
