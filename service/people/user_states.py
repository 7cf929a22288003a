"""What encoders keep of users between requests: how much, and its erasure."""

from collections.abc import Sequence

from model_store.encoding import CacheCounts, KeepsStates, UserEncoder
from service.engine.batcher import EncodeBatcher
from service.engine.live_bundles import LiveBundles


class UserStates:
    """The states that the live encoders keep.

    Args:
        bundles: Whose encoders.
        models: The thread that they run on.
    """

    def __init__(self, bundles: LiveBundles, models: EncodeBatcher) -> None:
        self._bundles = bundles
        self._models = models

    def kept_bytes(self) -> dict[str, int]:
        """Per kind of model."""
        return {kind: served.encoder.kept_bytes for kind, served in self._bundles.live.bundles.items()}

    def counts(self) -> dict[str, CacheCounts]:
        """Per kind of model that keeps something; from 0 again with every new bundle."""
        encoders = {kind: served.encoder for kind, served in self._bundles.live.bundles.items()}
        return {kind: encoder.kept_counts for kind, encoder in encoders.items() if isinstance(encoder, KeepsStates)}

    async def forget(self, owner_hashes: Sequence[str]) -> int:
        """Drops what is kept of users; call it once their histories are gone.

        It runs after the histories that were asked for before it, as those may bring the user back; and later ones
        do not, as they compare ``Forgetting.count``.

        Returns:
            How many states there were, over users and encoders.

        Raises:
            NotReady: The service is ending, and with it everything that is kept.
        """
        encoders = self._encoders()
        ran = await self._models.run(
            lambda: sum(encoder.forget(one) for encoder in encoders for one in owner_hashes), waits=True
        )
        return ran.value

    async def forget_all(self) -> None:
        """Drops what is kept of all users.

        Raises:
            NotReady: As of ``forget``.
        """
        encoders = self._encoders()

        def forget_all() -> None:
            for encoder in encoders:
                encoder.forget_all()

        await self._models.run(forget_all, waits=True)

    def _encoders(self) -> list[UserEncoder]:
        return [served.encoder for served in self._bundles.live.bundles.values()]
