"""A file for events that could not be delivered: one JSON object a line, on disk when ``keep`` returns."""

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from hatstand_client.inputs import Event

LOGGER = logging.getLogger(__name__)


class Spool:
    """The file of one EventSender; two must not share one.

    Args:
        path: Of the file, which need not exist; its folder must.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, events: Sequence[Event]) -> None:
        """Adds events.

        Raises:
            OSError: The file cannot be written.
        """
        with self._path.open("ab") as file:
            # A line that a crash has cut off must not swallow the next one.
            if file.tell():
                file.write(b"\n")
            file.write(b"\n".join(event.model_dump_json().encode() for event in events))
            file.flush()
            os.fsync(file.fileno())

    def batches(self, size: int) -> Iterator[list[Event]]:
        """Yields what is kept, so many events at a time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            events = (event for line in file if (event := self._event(line)) is not None)
            while batch := list(islice(events, size)):
                yield batch

    def clear(self) -> None:
        """Forgets what is kept."""
        self._path.unlink(missing_ok=True)

    def _event(self, line: bytes) -> Event | None:
        if not line.strip():
            return None
        try:
            return Event.model_validate_json(line)
        except ValidationError:
            LOGGER.warning("%s: skipped a line of %d bytes that holds no whole event", self._path, len(line))
            return None
