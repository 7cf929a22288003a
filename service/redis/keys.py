"""The names of what Redis holds; those of one user or session are shared with the batch jobs."""

from model_store.people.event_log import shard_key
from model_store.people.owner import Owner
from model_store.people.owner_keys import erased_key, log_key, owner_key

__all__ = ["decision_keys", "erased_key", "log_key", "owner_key", "page_prefix"]


def decision_keys(shard: int) -> tuple[str, str, str]:
    """The keys of a shard's decision records: hash of records, sorted set of their times, bytes that they take."""
    names = ("decisions", "decisions_by_time", "decisions_bytes")
    records, by_time, num_bytes = (shard_key(shard, name) for name in names)
    return records, by_time, num_bytes


def page_prefix(owner: Owner) -> str:
    """What the keys of an owner's lists for pages begin with; it does not name the owner."""
    return shard_key(owner.shard, f"page:{owner.hash}:")
