"""One way to forget somebody: every store of remembered things registers here, and is told."""

from collections.abc import Sequence
from typing import Protocol


class Remembers(Protocol):
    """Keeps something of people in this process. For the event loop."""

    def forget(self, owner_hash: str) -> int:
        """Drops what is kept of somebody, and says how many records that was."""
        ...

    def forget_all(self) -> None:
        """Drops everything."""
        ...


class RemembersElsewhere(Protocol):
    """Keeps something of people on another thread."""

    async def forget(self, owner_hashes: Sequence[str]) -> int:
        """Drops what is kept of these owners, and says how many records that was."""
        ...

    async def forget_all(self) -> None:
        """Drops everything."""
        ...


class Forgetting:
    """Knows who remembers something, and how often somebody was forgotten.

    Whoever keeps something of a person compares ``count`` with what it was before the history was read: what was read
    before somebody was forgotten must not be kept after it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._stores: list[tuple[str | None, Remembers]] = []
        self._states: RemembersElsewhere | None = None

    @property
    def count(self) -> int:
        """How often somebody was forgotten."""
        return self._count

    def register(self, store: Remembers, *, receipt: str | None) -> None:
        """Has a store told; ``receipt`` is its name in receipts, None if it has no line there."""
        self._stores.append((receipt, store))

    def register_states(self, states: RemembersElsewhere) -> None:
        """Has the encoders told, which keep states of users on the model's thread."""
        self._states = states

    def forget(self, owner_hash: str) -> dict[str, int]:
        """Drops what the event loop keeps of somebody; call it right after their history is gone.

        Returns:
            What was kept, and how many records of it.
        """
        self._count += 1
        counts = [(name, store.forget(owner_hash)) for name, store in self._stores]
        return {name: count for name, count in counts if name is not None}

    async def forget_states(self, owner_hashes: Sequence[str]) -> int:
        """Drops what encoders keep of users, after all who asked before; how many states that was.

        Raises:
            NotReady: The service is ending, and with it everything that is kept.
        """
        return await self._states.forget(owner_hashes) if self._states is not None else 0

    async def forget_owners(self, owner_hashes: Sequence[str]) -> None:
        """Drops everything that this process keeps of these owners.

        Raises:
            NotReady: As of ``forget_states``.
        """
        for one in owner_hashes:
            self.forget(one)
        await self.forget_states(owner_hashes)

    async def forget_all(self) -> None:
        """Drops everything that this process keeps of anybody.

        Raises:
            NotReady: As of ``forget_states``.
        """
        self._count += 1
        for _, store in self._stores:
            store.forget_all()
        if self._states is not None:
            await self._states.forget_all()
