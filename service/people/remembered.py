"""What this process remembers of users and sessions, in one place, so that forgetting somebody forgets all of it."""

from collections.abc import Callable, Sequence

from model_store.people.owner import Owner
from service.people.embeddings import LastEmbeddings
from service.people.known_history import LastHistories
from service.people.repeats import Repeats
from service.people.visibility import EventVisibility
from service.recommend.ask import Interaction


class LastKnown:
    """The last good embeddings, the last known histories and the last answers. For the event loop.

    Args:
        max_bytes: Of all together, a third for each; 0 keeps nothing.
        max_age_seconds: Older ones are dropped.
        became_visible: Is told how long acknowledged events took to be seen by an answer.
    """

    def __init__(
        self, *, max_bytes: int, max_age_seconds: float, became_visible: Callable[[float], None] | None = None
    ) -> None:
        self.visibility = EventVisibility(became_visible)
        self.embeddings = LastEmbeddings(max_bytes=max_bytes // 3, max_age_seconds=max_age_seconds)
        self.histories = LastHistories(max_bytes=max_bytes // 3, max_age_seconds=max_age_seconds)
        self.repeats = Repeats(max_bytes=max_bytes // 3, max_age_seconds=max_age_seconds)
        self._num_forgotten = 0

    @property
    def num_forgotten(self) -> int:
        """How often somebody was forgotten: what was read before the last time must not be kept after it."""
        return self._num_forgotten

    def kept_bytes(self) -> dict[str, int]:
        """What is kept takes, about."""
        return {
            "embeddings": self.embeddings.num_bytes,
            "histories": self.histories.num_bytes,
            "answers": self.repeats.num_bytes,
        }

    def add(self, owner: Owner, interactions: Sequence[Interaction]) -> None:
        """Adds interactions that the history store has acknowledged."""
        self.histories.add(owner, interactions)
        self.visibility.acknowledged(owner, interactions)

    def forget(self, owner_hash: str) -> dict[str, int]:
        """Drops everything that is kept of somebody; call it once their history is gone.

        Returns:
            What was kept, and how many records of it.
        """
        self._num_forgotten += 1
        self.visibility.forget(owner_hash)
        return {
            "last_embeddings": self.embeddings.forget(owner_hash),
            "last_histories": self.histories.forget(owner_hash),
            "last_answers": self.repeats.forget(owner_hash),
        }

    def forget_all(self) -> None:
        """Drops everything that is kept of anybody."""
        self._num_forgotten += 1
        self.embeddings.forget_all()
        self.histories.forget_all()
        self.repeats.forget_all()
        self.visibility.forget_all()
