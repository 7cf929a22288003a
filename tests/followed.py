"""Follows what runs: which files of ours a piece of work passes, in every thread, in the order of entering them."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
_OURS = tuple(f"{ROOT / package}/" for package in ("service", "model_store"))


class Follower:
    """Notes files while it is on; threads must have been started while it was installed."""

    def __init__(self) -> None:
        self.is_on = False
        self.files: dict[str, None] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """The profiler's hook."""
        if not self.is_on or event != "call":
            return
        name = frame.f_code.co_filename
        if name.startswith(_OURS):
            self.files[name.removeprefix(f"{ROOT}/")] = None

    @contextmanager
    def following(self) -> Iterator[None]:
        """Notes what runs in the block, and in other threads meanwhile."""
        self.is_on = True
        try:
            yield
        finally:
            self.is_on = False


@contextmanager
def installed() -> Iterator[Follower]:
    """A follower of this thread and of all that are started in the block."""
    follower = Follower()
    threading.setprofile(follower)
    sys.setprofile(follower)
    try:
        yield follower
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
