"""Reads and trims the event log in Redis or Redis Cluster."""

from collections.abc import Iterator
from typing import Any

from redis.exceptions import ResponseError

from model_store.errors import InvalidInput
from model_store.people.event_log import (
    LoggedErasure,
    LoggedEvent,
    LoggedMerge,
    read_entry,
    stream_key,
    trimmed_key,
)
from model_store.people.owner import NUM_SHARDS
from offline.redis.connection import REDIS_FAILURES, connect, one_line

Position = tuple[int, int]
Entry = LoggedEvent | LoggedMerge | LoggedErasure

BEGINNING: Position = (0, 0)
_ENTRIES_AT_ONCE = 2_000

# Both in one step, so that whoever exports to another place can see that they missed something.
_TRIM = """
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return removed
"""


def parse_position(text: str | bytes) -> Position:
    """A position as Redis writes it: ``milliseconds-number``."""
    milliseconds, _, number = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(milliseconds), int(number or 0)


def format_position(position: Position) -> str:
    """Undoes ``parse_position``."""
    return f"{position[0]}-{position[1]}"


class EventStream:
    """The event log of one service.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        cluster: Whether the url names a node of a Redis Cluster.
        timeout_seconds: For connecting and for each answer.

    Raises:
        InvalidInput: It cannot be reached; so does every method.
    """

    def __init__(self, url: str, *, cluster: bool = False, timeout_seconds: float = 10.0) -> None:
        self._client = connect(url, cluster=cluster, timeout_seconds=timeout_seconds)

    def __enter__(self) -> "EventStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ends(self) -> dict[int, Position]:
        """Per shard that has a log, the position of the last entry that it ever had."""
        ends = {}
        for shard in range(NUM_SHARDS):
            try:
                ends[shard] = parse_position(self._call("xinfo_stream", stream_key(shard))["last-generated-id"])
            except ResponseError as error:
                if "no such key" not in str(error):
                    raise InvalidInput(f"the log of shard {shard} cannot be read: {one_line(error)}") from error
        return ends

    def trimmed(self) -> dict[int, Position]:
        """Per shard that was ever trimmed, up to where."""
        values = {shard: self._call("get", trimmed_key(shard)) for shard in range(NUM_SHARDS)}
        return {shard: parse_position(value) for shard, value in values.items() if value is not None}

    def count(self) -> int:
        """How many entries there are."""
        return sum(int(self._call("xlen", stream_key(shard))) for shard in range(NUM_SHARDS))

    def read(self, shard: int, after: Position, until: Position) -> Iterator[tuple[Position, Entry]]:
        """Yields the entries after one position up to another, in their order.

        Raises:
            InvalidInput: An entry is of a kind that is not known here.
        """
        while True:
            rows = self._call(
                "xrange",
                stream_key(shard),
                min=f"({format_position(after)}",
                max=format_position(until),
                count=_ENTRIES_AT_ONCE,
            )
            for name, fields in rows:
                after = parse_position(name)
                try:
                    entry = read_entry(fields)
                except (ValueError, KeyError, TypeError) as error:
                    raise InvalidInput(
                        f"entry {format_position(after)} of shard {shard} cannot be read ({one_line(error)}): it may "
                        "be of a newer version of the service; nothing was skipped"
                    ) from error
                yield after, entry
            if len(rows) < _ENTRIES_AT_ONCE:
                return

    def trim(self, shard: int, until: Position) -> int:
        """Removes the entries of a shard up to a position; returns how many."""
        next_one = format_position((until[0], until[1] + 1))
        keys = (stream_key(shard), trimmed_key(shard))
        return int(self._call("eval", _TRIM, len(keys), *keys, next_one, format_position(until)))

    def _call(self, command: str, *arguments: Any, **named: Any) -> Any:
        try:
            return getattr(self._client, command)(*arguments, **named)
        except ResponseError:
            raise
        except REDIS_FAILURES as error:
            raise InvalidInput(f"Redis does not answer: {one_line(error)}") from error
