"""The items that operators have hidden, as of one moment; plain values, no Redis."""

import itertools
from dataclasses import dataclass, field

MAX_HIDDEN = 100_000

_serial = itertools.count()


@dataclass(frozen=True)
class HiddenItems:
    """What may not be recommended, whatever else is asked for.

    Attributes:
        item_ids: Hidden ones; they need not be in any catalogue.
        is_known: Whether the store has ever been read; if not, what is hidden is not known.
        serial: Another one for each set that this process made, so that what was computed of one can be kept.
    """

    item_ids: frozenset[str] = frozenset()
    is_known: bool = True
    serial: int = field(default_factory=lambda: next(_serial), compare=False)


NOTHING_HIDDEN = HiddenItems()


@dataclass(frozen=True, slots=True)
class HiddenItem:
    """One item, and since when it is hidden, in seconds since 1970; None if it is not hidden."""

    item_id: str
    hidden_at: float | None
