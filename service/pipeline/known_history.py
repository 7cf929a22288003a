"""What a model can read of a user's interactions."""

from collections.abc import Sequence

import numpy as np

from model_store.catalogue import Catalogue
from model_store.user_encoder import History
from service.pipeline.query import Interaction


def in_order(history: Sequence[Interaction]) -> Sequence[Interaction]:
    """By timestamp where every entry has one (equal ones keep their order), else as it came."""
    if any(interaction.timestamp is None for interaction in history):
        return history
    return sorted(history, key=lambda interaction: interaction.timestamp or 0)


def known_history(catalogue: Catalogue, interactions: Sequence[Interaction]) -> History:
    """All interactions with items of the catalogue; how many of them are read is for the encoder to say.

    Args:
        catalogue: Of the bundle that answers.
        interactions: Oldest first.

    Returns:
        (L,) items and timestamps, of nobody; L is 0 where nothing is known.
    """
    indices = catalogue.indices_of(interaction.item_id for interaction in interactions)
    is_known = indices > 0
    timestamps = _filled([interaction.timestamp for interaction in interactions])
    return History(indices[is_known], timestamps[is_known])


def _filled(timestamps: Sequence[int | None]) -> np.ndarray:
    """(L,) int64; a missing one is that of the entry before it, or the first one there is, or 0."""
    previous = next((timestamp for timestamp in timestamps if timestamp is not None), 0)
    filled = np.empty(len(timestamps), dtype=np.int64)
    for at, timestamp in enumerate(timestamps):
        previous = previous if timestamp is None else timestamp
        filled[at] = previous
    return filled
