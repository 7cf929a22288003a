"""What this process remembers of users and sessions to save work, and for when the model or Redis does not answer."""

from collections.abc import Callable, Sequence

from model_store.people.owner import Owner
from service.people.embeddings import LastEmbeddings
from service.people.forgetting import Forgetting
from service.people.interactions import Row
from service.people.known_history import LastHistories
from service.people.repeats import Repeats
from service.people.visibility import EventVisibility


class LastKnown:
    """The last good embeddings, the last known histories and the last answers. For the event loop.

    Args:
        max_bytes: Of all together, a third for each; 0 keeps nothing.
        max_age_seconds: Older ones are dropped.
        forgetting: Tells all that is here whom to forget.
        became_visible: Is told how long acknowledged events took to be seen by an answer.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_age_seconds: float,
        forgetting: Forgetting | None = None,
        became_visible: Callable[[float], None] | None = None,
    ) -> None:
        self.forgetting = forgetting or Forgetting()
        self.visibility = EventVisibility(became_visible)
        self.embeddings = LastEmbeddings(max_bytes=max_bytes // 3, max_age_seconds=max_age_seconds)
        self.histories = LastHistories(max_bytes=max_bytes // 3, max_age_seconds=max_age_seconds)
        self.repeats = Repeats(max_bytes=max_bytes // 3, max_age_seconds=max_age_seconds)
        self.forgetting.register(self.visibility, receipt=None)
        self.forgetting.register(self.embeddings, receipt="last_embeddings")
        self.forgetting.register(self.histories, receipt="last_histories")
        self.forgetting.register(self.repeats, receipt="last_answers")

    def kept_bytes(self) -> dict[str, int]:
        """What is kept takes, about."""
        return {
            "embeddings": self.embeddings.num_bytes,
            "histories": self.histories.num_bytes,
            "answers": self.repeats.num_bytes,
        }

    def add(self, owner: Owner, rows: Sequence[Row]) -> None:
        """Adds (item id, timestamp, type) of events that the history store has acknowledged."""
        self.histories.add(owner, rows)
        self.visibility.acknowledged(owner, rows)
