"""What is known when an answer is made: the history, and what operators have hidden."""

from dataclasses import dataclass, field

import numpy as np

from model_store.catalogue.catalogue import Catalogue
from model_store.people.histories import History
from service.people.hidden_set import NOTHING_HIDDEN, HiddenItems
from service.people.interactions import NO_INTERACTIONS, Interactions
from service.people.known_history import ReadHistory

_NO_ITEMS = np.empty(0, dtype=np.int64)
_NO_HISTORY = History(_NO_ITEMS, _NO_ITEMS)


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A history as it was read.

    Attributes:
        interactions: Oldest first: those in the request, else the stored ones, else the last known ones.
        version: Of the stored history; None where it is none, or one of several owners.
        is_current: False where the stored history could not be read. The model is not asked then.
        kept: The stored history of one owner, as it is kept with its version.
    """

    interactions: Interactions = NO_INTERACTIONS
    version: bytes | None = None
    is_current: bool = True
    kept: ReadHistory | None = None

    def known_to(self, catalogue: Catalogue) -> History:
        """What a model can read of it; of a stored history worked out once for each version and catalogue."""
        return self.interactions.known_to(catalogue) if self.kept is None else self.kept.known_to(catalogue)


NO_PAST = Past()


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """All that an answer depends on beside what was asked.

    Attributes:
        past: The history as it was read.
        history: What of it is in the catalogue.
        read_items: (W,) int64 item indices that the model reads: the latest ones of the history, oldest first.
        hidden: What operators have hidden.
        num_forgotten: ``Forgetting.count`` before the history was read.
    """

    past: Past = NO_PAST
    history: History = field(default_factory=lambda: _NO_HISTORY)
    read_items: np.ndarray = field(default_factory=lambda: _NO_ITEMS)
    hidden: HiddenItems = NOTHING_HIDDEN
    num_forgotten: int = 0
