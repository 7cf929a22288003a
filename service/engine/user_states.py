"""What encoders keep of users between requests: how much, and its erasure."""

from service.engine.batcher import EncodeBatcher
from service.engine.live_bundle import LiveBundles


class UserStates:
    """The states that the live encoders keep.

    Args:
        bundles: Whose encoders.
        models: The thread that they run on.
    """

    def __init__(self, bundles: LiveBundles, models: EncodeBatcher) -> None:
        self._bundles = bundles
        self._models = models
        self._num_erasures = 0

    @property
    def num_erasures(self) -> int:
        """How many users have been erased so far: who has read a history before the last one may hold it no more."""
        return self._num_erasures

    def kept_bytes(self) -> dict[str, int]:
        """Per kind of model."""
        return {kind: served.encoder.kept_bytes for kind, served in self._bundles.live.bundles.items()}

    async def forget(self, user_id: str) -> int:
        """Drops what is kept of a user; call it once their history is gone.

        It runs after the histories that were asked for before it, as those may bring the user back; and later ones
        do not, as they see the count.

        Returns:
            How many encoders kept something.

        Raises:
            NotReady: The service is ending, and with it everything that is kept.
        """
        self._num_erasures += 1
        encoders = [served.encoder for served in self._bundles.live.bundles.values()]
        ran = await self._models.run(lambda: sum(encoder.forget(user_id) for encoder in encoders), waits=True)
        return ran.value
