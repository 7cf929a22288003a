"""What one of several workers asks of all of them, by way of the parent."""

from typing import Any

from service.errors import BundleRefused, NotReady
from service.workers.channel import Channel, PeerFailed

_PAGE_SECONDS = 5.0
# A reload takes as long as loading the bundle does, in one worker after the other where memory is short.
_RELOAD_SECONDS = 3_600.0


class Siblings:
    """All workers of the service, seen from one of them.

    Args:
        channel: To the parent.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def metrics(self) -> bytes:
        """One page of metrics for all workers.

        Raises:
            NotReady: The parent does not answer.
        """
        page: str = await self._ask("metrics")
        return page.encode()

    async def readiness(self) -> dict[str, Any]:
        """The document of ``/readyz`` for all workers.

        Raises:
            NotReady: The parent does not answer.
        """
        document: dict[str, Any] = await self._ask("readiness")
        return document

    async def reload(self) -> None:
        """Has every other worker load what the store's live pointer names; returns when all have.

        Raises:
            BundleRefused: A worker cannot serve a bundle; that worker goes on with the old one.
        """
        try:
            problems: list[str] = await self._channel.ask("reload", timeout_seconds=_RELOAD_SECONDS)
        except PeerFailed as error:
            raise BundleRefused(f"the other workers were not asked to reload: {error}") from error
        if problems:
            raise BundleRefused("; ".join(problems))

    async def _ask(self, question: str) -> Any:
        try:
            return await self._channel.ask(question, timeout_seconds=_PAGE_SECONDS)
        except PeerFailed as error:
            raise NotReady(f"the other workers cannot be asked: {error}") from error
