"""One process at a time loads a bundle, where there is no room for all to load at once."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from typing import Any


class LoadingTurn:
    """A turn that processes take through a file that all of them have inherited; a process that dies gives the turn up.

    Args:
        descriptor: Of the file. Its lock belongs to the process, so that one inherited descriptor serves all.
        num_processes: That may want to load at the same time.
    """

    def __init__(self, descriptor: int, *, num_processes: int) -> None:
        self._descriptor = descriptor
        self.num_processes = num_processes

    def __reduce__(self) -> tuple[Any, ...]:
        """On its way to a process that starts, the descriptor is inherited."""
        return _inherited, (DupFd(self._descriptor), self.num_processes)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Waits for the turn, and has the turn inside the block."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def _inherited(descriptor: Any, num_processes: int) -> LoadingTurn:
    return LoadingTurn(descriptor.detach(), num_processes=num_processes)
