"""How long it takes from the acknowledgement of an event until an answer counts it in.

Every answer that begins after an acknowledgement counts the event in, so what is measured is mostly how soon the user
asks again; where it gets long for users who ask at once, as on a page that reports a click and then loads, something is
wrong. Each process knows of the events that it has acknowledged itself.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from cachetools import FIFOCache

from model_store.people.owner import Owner
from service.people.interactions import Interactions, Row

_MAX_WAITING = 10_000


class EventVisibility:
    """The oldest event of each user and session that no answer has counted in yet. For the event loop.

    Args:
        became_visible: Is given the seconds from each acknowledgement to the answer.
        clock: In seconds.
    """

    def __init__(
        self, became_visible: Callable[[float], None] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._became_visible = became_visible
        self._clock = clock
        # by the hash of the owner; nothing else of them is kept
        self._waiting: FIFOCache[str, tuple[str, int, float]] = FIFOCache(_MAX_WAITING)

    def __len__(self) -> int:
        return len(self._waiting)

    def acknowledged(self, owner: Owner, rows: Sequence[Row]) -> None:
        """Events of one owner were acknowledged now; of many owners the ones that wait longest are given up."""
        if rows:
            item_id, timestamp, _ = rows[0]
            self._waiting.setdefault(owner.hash, (item_id, timestamp or 0, self._clock()))

    def answered(self, owners: Sequence[Owner], interactions: Interactions) -> None:
        """An answer to these owners was made of this history, oldest first."""
        for owner in owners if self._waiting else ():
            waiting = self._waiting.get(owner.hash)
            if waiting is None:
                continue
            item_id, timestamp, since = waiting
            at_that_time = np.flatnonzero(interactions.timestamps == timestamp).tolist()
            if any(interactions.item_ids[at] == item_id for at in at_that_time):
                del self._waiting[owner.hash]
                if self._became_visible is not None:
                    self._became_visible(self._clock() - since)
            elif len(interactions) and timestamp < interactions.timestamps[0]:
                # it came late and did not make it into what is kept
                del self._waiting[owner.hash]

    def forget(self, owner_hash: str) -> int:
        """Waits no more for an event of this owner, and says for how many it did."""
        return int(self._waiting.pop(owner_hash, None) is not None)

    def forget_all(self) -> None:
        """Waits for nothing any more."""
        self._waiting.clear()
