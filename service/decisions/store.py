"""What the service asks of a store of decision records; plain values, no Redis."""

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Protocol

from model_store.people.owner import NUM_SHARDS, Owner

# Of one record.
MAX_RECORD_BYTES = 64 * 1_024
_RANDOM_BYTES = 15


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One record.

    Attributes:
        recommendation_id: Names it.
        owner: Whom it is about, and is erased with; None if nobody was named.
        made_at: When, in seconds since 1970.
        packed: The document, at most ``MAX_RECORD_BYTES``.
    """

    recommendation_id: str
    owner: Owner | None
    made_at: float
    packed: bytes


@dataclass(frozen=True, slots=True)
class NewestDecisions:
    """The newest records of each shard.

    Attributes:
        is_cut: Whether a shard has more, so that these are a sample.
        documents: Packed, in no order.
    """

    is_cut: bool
    documents: Sequence[bytes]


class DecisionStore(Protocol):
    """Keeps records for a while; each method raises HistoryUnavailable when it cannot."""

    async def put(self, records: Sequence[DecisionRecord]) -> list[bool]:
        """Keeps records; for each False if its user was erased since it was made."""
        ...

    async def get(self, recommendation_id: str) -> bytes | None:
        """The document of a record; None if there is none (any more)."""
        ...

    async def newest(self, moment: float) -> NewestDecisions:
        """The newest records of each shard, made since a moment (seconds since 1970)."""
        ...


def new_recommendation_id(owner: Owner | None) -> str:
    """32 hexadecimal digits: random ones, and at the end two for the shard in which the record of this answer lives.

    So it is found by the id alone, and lies where everything else of its user does, who can be erased in one step.

    Args:
        owner: Whom the answer is about; None if nobody was named.
    """
    shard = int(token_hex(1), 16) % NUM_SHARDS if owner is None else owner.shard
    return f"{token_hex(_RANDOM_BYTES)}{shard:02x}"


def shard_of(recommendation_id: str) -> int | None:
    """The shard that an id names; None if no answer ever had this id."""
    if len(recommendation_id) != 2 * _RANDOM_BYTES + 2:
        return None
    try:
        shard = bytes.fromhex(recommendation_id)[-1]
    except ValueError:
        return None
    return shard if shard < NUM_SHARDS else None
