"""What is known when an answer is made: the history, and what operators have hidden."""

from dataclasses import dataclass, field

import numpy as np

from model_store.people.histories import History
from service.people.hidden_set import NOTHING_HIDDEN, HiddenItems
from service.people.history_store import NO_EVENTS, Events

_NO_ITEMS = np.empty(0, dtype=np.int64)
_NO_HISTORY = History(_NO_ITEMS, _NO_ITEMS)


@dataclass(frozen=True, slots=True)
class Past:
    """A history as it was read.

    Attributes:
        events: Oldest first: those in the request, else the stored ones, else the last known ones.
        version: Of the stored history; None where it is none, or one of several owners.
        is_current: False where the stored history could not be read. The model is not asked then.
    """

    events: Events = NO_EVENTS
    version: bytes | None = None
    is_current: bool = True


NO_PAST = Past()


@dataclass(frozen=True, slots=True)
class Known:
    """All that an answer depends on beside what was asked.

    Attributes:
        past: The history as it was read.
        history: What of it is in the catalogue.
        read_items: (W,) int64 item indices that the model reads: the latest ones of the history, oldest first.
        hidden: What operators have hidden.
        num_erasures: Users erased before the history was read.
        num_forgotten: Users and sessions that this process was told to forget before.
    """

    past: Past = NO_PAST
    history: History = field(default_factory=lambda: _NO_HISTORY)
    read_items: np.ndarray = field(default_factory=lambda: _NO_ITEMS)
    hidden: HiddenItems = NOTHING_HIDDEN
    num_erasures: int = 0
    num_forgotten: int = 0
