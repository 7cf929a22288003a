"""The names of what Redis holds of one user or session; all of them lie in the owner's shard, which is one hash slot.

Ids are base64url in keys, so no id can leave its ``{tag}`` or be taken for another owner's.
"""

import base64
from typing import Literal

from model_store.people.event_log import shard_key, stream_key
from model_store.people.owner import Owner

Name = Literal["history", "event_ids", "decisions", "sessions", "pages"]


def owner_key(owner: Owner, name: Name) -> str:
    """The key of one thing that is kept of an owner."""
    kind = "session" if owner.is_session else "user"
    coded = base64.urlsafe_b64encode(owner.id.encode()).decode().rstrip("=")
    return shard_key(owner.shard, f"{kind}:{coded}:{name}")


def erased_key(owner: Owner) -> str:
    """The key that says for a while when an owner was erased (milliseconds); it must not name them."""
    return shard_key(owner.shard, f"erased:{owner.hash}")


def log_key(owner: Owner) -> str:
    """The key of the part of the event log that an owner's events go to."""
    return stream_key(owner.shard)
