"""What the event log looks like: the service writes it, ``offline.export_events`` reads it.

The log is one Redis Stream per shard, and a shard is a hash slot of a Redis Cluster: everything that is kept of one
user or session, their part of the log included, lives in it, so that one script changes all of it or nothing. The
64 slots are spread evenly, so that up to 64 masters share them about equally. An entry is one of

====================  =================================================================================
``u`` ``t`` ``p``     an event of a user: their id, seconds since 1970, the payload
``s`` ``t`` ``p``     an event of a session, the same
``m`` ``u``           a merge: what this session did, a user had done
``x``                 an erasure: nothing that this owner (a hash) did before may be used any more
====================  =================================================================================
"""

import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import orjson

from model_store.people.owner import NUM_SHARDS, Owner

# What the service's console puts under "origin" into the properties of its events: an operator tried them.
CONSOLE_ORIGIN = "console"
_SLOTS = 16_384
_SLOTS_PER_SHARD = _SLOTS // NUM_SHARDS


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One accepted event.

    Attributes:
        owner: Whose it is.
        item_id: What they interacted with.
        timestamp: Seconds since 1970, as reported.
        type: What happened.
        event_id: Names the event among those of its owner.
        recommendation_id: The answer that led to it, if any.
        properties: As reported.
    """

    owner: Owner
    item_id: str
    timestamp: int
    type: str
    event_id: str
    recommendation_id: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoggedMerge:
    """What a session did until now is a user's."""

    session_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class LoggedErasure:
    """Nothing that the owner of this hash did until now may be used any more."""

    owner_hash: str


def stream_key(shard: int) -> str:
    """The Redis key of a shard's part of the log."""
    return shard_key(shard, "log")


def trimmed_key(shard: int) -> str:
    """The Redis key of the position up to which a shard's part of the log was trimmed."""
    return shard_key(shard, "log_trimmed")


def shard_key(shard: int, name: str) -> str:
    """A Redis key in a shard's hash slot."""
    return f"hatstand:{{{_tags()[shard]}}}:{name}"


def pack_event(
    item_id: str, kind: str, event_id: str, recommendation_id: str | None, properties: Mapping[str, Any]
) -> bytes:
    """The payload of an event: what there is beside owner and timestamp. Defaults at its end are left out."""
    row = [item_id, kind, event_id, recommendation_id, dict(properties)]
    while row[-1] in (None, {}):
        row.pop()
    return orjson.dumps(row)


def unpack_events(payloads: Iterable[bytes]) -> list[tuple[str, str, str, str | None, dict[str, Any]]]:
    """Undoes ``pack_event``: item_id, type, event_id, recommendation_id and properties of each."""
    return [_whole(*row) for row in parse_payloads(payloads)]


def parse_payloads(payloads: Iterable[bytes]) -> list[list[Any]]:
    """What ``pack_event`` wrote, as it wrote it: at least item_id, type and event_id of each.

    Parsed together, as one by one takes several times as long.
    """
    parsed: list[list[Any]] = orjson.loads(b"[" + b",".join(payloads) + b"]")
    return parsed


def _whole(
    item_id: str,
    kind: str,
    event_id: str,
    recommendation_id: str | None = None,
    properties: dict[str, Any] | None = None,
) -> tuple[str, str, str, str | None, dict[str, Any]]:
    return item_id, kind, event_id, recommendation_id, properties or {}


def read_entry(fields: Mapping[bytes, bytes]) -> LoggedEvent | LoggedMerge | LoggedErasure:
    """Reads one entry of the log.

    Raises:
        ValueError: It is none.
    """
    if b"p" in fields and (b"u" in fields or b"s" in fields):
        is_session = b"s" in fields
        owner = Owner(fields[b"s" if is_session else b"u"].decode(), is_session)
        ((item_id, kind, event_id, recommendation_id, properties),) = unpack_events([fields[b"p"]])
        return LoggedEvent(owner, item_id, int(fields[b"t"]), kind, event_id, recommendation_id, properties)
    if b"m" in fields:
        return LoggedMerge(fields[b"m"].decode(), fields[b"u"].decode())
    if b"x" in fields:
        return LoggedErasure(fields[b"x"].decode())
    raise ValueError(f"an entry with the fields {sorted(fields)}")


@cache
def _tags() -> tuple[str, ...]:
    """Per shard a hash tag whose slot lies in the shard's part of all slots; plain numbers would crowd in a few."""
    return tuple(_tag(shard) for shard in range(NUM_SHARDS))


def _tag(shard: int) -> str:
    salt = 0
    while True:
        tag = f"shard{shard}.{salt}"
        # Redis Cluster's CRC16 is the XMODEM one
        if binascii.crc_hqx(tag.encode(), 0) % _SLOTS // _SLOTS_PER_SHARD == shard:
            return tag
        salt += 1
