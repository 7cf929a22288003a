"""Whose something is: a user's or a session's. Made once per request, and handed on."""

import hashlib
from dataclasses import dataclass, field

NUM_SHARDS = 64
_USER, _SESSION = "u", "s"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose events they are. A user and a session of the same id are two.

    Attributes:
        id: Of the user or the session.
        is_session: Which of both.
        hash: 32 hexadecimal digits that name the owner to nobody who does not know the id.
    """

    id: str
    is_session: bool = False
    hash: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Once: it names the owner wherever something is kept of them, several times in each request.
        object.__setattr__(self, "hash", hashlib.sha256(f"{self.field}\x00{self.id}".encode()).hexdigest()[:32])

    @property
    def field(self) -> str:
        """The name of the field that holds the id in an entry of the log."""
        return _SESSION if self.is_session else _USER

    @property
    def shard(self) -> int:
        """Where everything of the owner lives: 0 to ``NUM_SHARDS - 1``."""
        return int(self.hash[:8], 16) % NUM_SHARDS


def owners_of(user_id: str | None, session_id: str | None) -> tuple[Owner, ...]:
    """Whom somebody means who names a user, a session, or both: the user first."""
    user = () if user_id is None else (Owner(user_id),)
    return user if session_id is None else (*user, Owner(session_id, is_session=True))
